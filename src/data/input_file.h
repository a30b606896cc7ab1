// Reading files so that whatever is wrong with them is an error that names them: no mapping that a shrinking file turns
// into SIGBUS, no wait that no signal ends.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace scfa {

// A regular file, read at given places. Move-only; safe to read from any number of threads.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // when it was opened
  // Fills `to` with bytes [offset, offset + bytes). Throws Error if they are not there.
  void read(int64_t offset, void* to, int64_t bytes) const;

 private:
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

// XXH3-64 of bytes [begin, end) of a file. progress(bytes done) is called now and then. Throws Interrupted once a
// signal asked to stop (core/signals.h).
uint64_t checksum_of_file(const InputFile& file, int64_t begin, int64_t end,
                          const std::function<void(int64_t)>& progress = {});

// The whole of a small file that a user names, a pipe perhaps. Throws Error if it has more bytes than `limit`,
// Interrupted once a signal asked to stop.
std::string read_text_file(const std::string& path, int64_t limit);

// The whole of a small file that a program of ours wrote: a pipe in its place is an error.
std::string read_regular_file(const std::string& path, int64_t limit);

// The same of standard input, to its end.
std::string read_standard_input(int64_t limit);

// Opens a file for reading, without waiting where it is a named pipe that nobody writes to yet; wait_readable does
// that, so it comes before every read(). Throws Error naming the path: a folder, for one.
int open_for_reading(const std::string& path);

// Waits until something can be read or the other side is gone, at most about 100 ms. False if neither came.
bool wait_readable(int fd);

}  // namespace scfa

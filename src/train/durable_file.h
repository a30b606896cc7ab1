// Writing files so that they survive a crash: every error is reported, and nothing counts until it is synced and
// renamed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

struct XXH3_state_s;

namespace scfa {

// A new file, written front to back, with the XXH3-64 of what was written. Throws Error naming the path on any failure,
// a full disk included.
class DurableFile {
 public:
  explicit DurableFile(const std::string& path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(const void* data, size_t bytes);
  void close();  // syncs to the device first
  uint64_t checksum() const;
  int64_t bytes() const { return bytes_; }

 private:
  std::string path_;
  int fd_;
  int64_t bytes_ = 0;
  XXH3_state_s* hash_;
};

void sync_directory(const std::string& path);
uint64_t file_checksum(const std::string& path, int64_t* bytes);  // XXH3-64 of a whole file
std::string hex(uint64_t value);

}  // namespace scfa

// Streams of bytes: files, standard input, and what zstd and gzip make of them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/signals.h"

namespace scfa {

class ByteSource {
 public:
  explicit ByteSource(std::string name) : name_(std::move(name)) {}
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills `out` with 1 to `size` bytes and returns how many; 0 only at the end. Throws Error naming the source.
  virtual size_t read(char* out, size_t size) = 0;

  // Reads until `size` bytes are there or the source ends.
  size_t read_fully(char* out, size_t size);

  const std::string& name() const { return name_; }  // for messages

 private:
  std::string name_;
};

// What watches and stops the reading of files from outside.
struct ReadControl {
  std::atomic<int64_t> bytes{0};            // read so far
  const std::atomic<bool>* stop = nullptr;  // set: reads throw Interrupted

  // Throws Interrupted (core/signals.h) with the parts put together, if `stop` is set.
  template <class... Parts>
  void check_stop(const Parts&... parts) const {
    if (stop != nullptr && *stop) throw Interrupted(concat(parts...));
  }
};

// A file, or standard input for the path "-".
std::unique_ptr<ByteSource> open_file(const std::string& path, ReadControl& control);

// A source whose first bytes can be looked at before they are read.
class PeekSource final : public ByteSource {
 public:
  explicit PeekSource(std::unique_ptr<ByteSource> source);

  // The next bytes, `size` of them unless the source ends before.
  std::string_view peek(size_t size);
  size_t read(char* out, size_t size) override;

 private:
  std::unique_ptr<ByteSource> source_;
  std::string ahead_;
  size_t used_ = 0;  // of ahead_
};

// The source itself, or the plain bytes of it if its first bytes are those of zstd or gzip, which they must be if its
// name ends in .zst or .gz. A zstd window may be of any size (up to zstd's own limit of 2 GiB); that much memory is
// taken.
std::unique_ptr<PeekSource> decompress(std::unique_ptr<ByteSource> source);

}  // namespace scfa

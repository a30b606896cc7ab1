// Tar archives (ustar, GNU, pax) as a stream: one pass over the members, nothing kept.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "data/byte_source.h"

namespace scfa {

class TarReader {
 public:
  explicit TarReader(ByteSource& archive) : archive_(archive) {}

  // Whether these 512 bytes start an archive.
  static bool is_tar(std::string_view start);

  // Goes to the next regular file, skipping what is left of the one before. False at the end of the archive. Throws
  // Error naming the archive if it is corrupt or truncated.
  bool next();

  const std::string& path() const { return path_; }
  // The file's bytes, named "archive:path". Valid until next(); must not outlive the reader.
  std::unique_ptr<ByteSource> open_member();

 private:
  friend class TarMember;
  void skip(int64_t bytes);
  std::string read_text(int64_t bytes);
  void read_extended_header(const std::string& records);

  ByteSource& archive_;
  std::string path_;
  int64_t left_ = 0;       // bytes of the member not read yet
  int64_t padding_ = 0;    // bytes after it, up to the next header
  std::string long_path_;  // from an extra header in front of the member
  int64_t long_size_ = -1;
};

}  // namespace scfa

// Tar archives (ustar, GNU, pax) as a stream: one pass over the members, nothing kept.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "data/byte_source.h"
#include "data/tar_sparse.h"

namespace scfa {

class TarReader {
 public:
  explicit TarReader(ByteSource& archive) : archive_(archive) {}

  // Whether these 512 bytes start an archive.
  static bool is_tar(std::string_view start);

  // Goes to the next file or link, skipping what is left of the member before; folders and devices are passed over.
  // False at the end of the archive. Throws Error naming the archive if it is corrupt or truncated.
  bool next();

  const std::string& path() const { return path_; }
  // Whether the member has bytes of its own: it is no link and no part of a file that another volume begins.
  bool is_file() const { return is_file_; }
  // The file's bytes, named "archive:path"; holes are zeros. Valid until next(); must not outlive the reader.
  std::unique_ptr<ByteSource> open_member();

 private:
  friend class TarMember;
  // What extra headers in front of a member say of it.
  struct Extra {
    std::string path;
    int64_t size = -1;
    PaxSparse sparse;
  };
  bool read_member(const char* header);
  void read_sparse_map(const char* header);
  void skip(int64_t bytes);
  std::string read_text(int64_t bytes);
  void read_extended_header(const std::string& records);

  ByteSource& archive_;
  std::string path_;
  bool is_file_ = false;
  int64_t left_ = 0;     // bytes of the member not read yet
  int64_t padding_ = 0;  // bytes after it, up to the next header
  Extra extra_;
  SparseMap map_;  // of the member; empty: it has no holes
};

}  // namespace scfa

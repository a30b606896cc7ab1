// Files with holes in tar archives: where the bytes that an archive stores belong in the file, in the four formats that
// GNU tar writes. What lies between them are zeros.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.h"

namespace scfa {

struct SparseMap {
  struct Part {
    int64_t offset, size;  // in the file
  };
  std::vector<Part> parts;
  int64_t size = 0;  // of the file
};

// A number of a header: octal digits, or base 256 if the first bit is set. -1 if it is neither.
int64_t tar_number(const char* header, size_t offset, size_t size);

// The format of old GNU tar, type S: a map in the header and in blocks that follow it, which are read from the archive.
SparseMap read_gnu_map(const char* header, ByteSource& archive);

// The formats 0.0, 0.1 and 1.0, in records GNU.sparse.* of a pax header.
class PaxSparse {
 public:
  // False if the record is none of these. Throws Error if it makes no sense.
  bool take(std::string_view record);

  bool present() const { return present_; }
  const std::string& name() const { return name_; }  // of the file; empty: as elsewhere
  // In format 1.0 the map stands in front of the stored bytes: `stored` becomes less by what is read of it.
  SparseMap finish(ByteSource& archive, int64_t& stored);

 private:
  bool present_ = false, map_in_data_ = false;
  std::string name_;
  SparseMap map_;
};

// Throws Error unless the parts follow one another, lie within the file and add up to what is stored.
void check_map(const SparseMap& map, int64_t stored);

}  // namespace scfa

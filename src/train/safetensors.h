// Tensors in files of the standard safetensors format: 8 bytes of header length, a JSON header (name -> dtype, shape,
// data_offsets), then the data. f32, row-major, little-endian; the header is padded so that the data starts 8-byte
// aligned.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace scfa {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  float* data;            // on the host
  bool optional = false;  // when read: may be missing, and is left as it is then
};

using TensorMetadata = std::map<std::string, std::string>;  // becomes "__metadata__"

struct WrittenFile {
  int64_t bytes;
  uint64_t xxh3;
};

// Writes a new file and syncs it.
WrittenFile write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const TensorMetadata& metadata);

// Fills the tensors from a file, which must hold these names with these shapes in F32, and no others, except names that
// contain `ignored` where it is not empty. Throws Error naming the file and the tensor; nothing is filled unless the
// whole header fits.
void read_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                      const std::string& ignored = {});

}  // namespace scfa

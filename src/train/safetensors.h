// Tensors in files of the standard safetensors format: 8 bytes of header length, a JSON header (name -> dtype, shape,
// data_offsets), then the data. f32, row-major, little-endian; the header is padded so that the data starts 8-byte
// aligned.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "train/durable_file.h"

namespace scfa {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  float* data;  // on the host
};

using TensorMetadata = std::map<std::string, std::string>;  // becomes "__metadata__"

// Writes a new file and syncs it. Returns its checksum and size in *bytes.
uint64_t write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                           const TensorMetadata& metadata, int64_t* bytes);

// Fills the tensors from a file, which must hold exactly these names with these shapes in F32. Throws Error naming the
// file and the tensor; nothing is filled unless the whole header fits.
void read_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors);

}  // namespace scfa

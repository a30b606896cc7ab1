#include "train/safetensors.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/checksum.h"
#include "data/output_file.h"

namespace scfa {

namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeader = 100'000'000;  // as the format's own reader has it

size_t bytes_of(const NamedTensor& tensor) {
  size_t bytes = sizeof(float);
  for (const int64_t n : tensor.shape) bytes *= static_cast<size_t>(n);
  return bytes;
}

Json entry_of(const NamedTensor& tensor, size_t offset) {
  return {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes_of(tensor)}}};
}

// Whether an entry's data_offsets are two numbers that lie `bytes` apart.
bool spans(const Json& entry, size_t bytes) {
  const auto found = entry.find("data_offsets");
  return found != entry.end() && found->is_array() && found->size() == 2 && (*found)[0].is_number_unsigned() &&
         (*found)[1].is_number_unsigned() && (*found)[1].get<uint64_t>() - (*found)[0].get<uint64_t>() == bytes;
}

// The header of a file and where its data starts.
Json read_header(std::ifstream& file, const std::string& path, uint64_t* data_start) {
  uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof length);
  require(file.gcount() == sizeof length && length <= kMaxHeader, path, ": is not a safetensors file");
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));
  require(file.gcount() == static_cast<std::streamsize>(length), path, ": ends within its header");
  Json header = Json::parse(text, nullptr, false);
  require(header.is_object(), path, ": its header is not JSON");
  *data_start = sizeof length + length;
  return header;
}

}  // namespace

WrittenFile write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const TensorMetadata& metadata) {
  Json header;
  header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    header[tensor.name] = entry_of(tensor, offset);
    offset += bytes_of(tensor);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  OutputFile file(path);
  Checksum checksum;
  const auto append = [&](const void* data, size_t size) {
    file.append(data, size);
    checksum.update(data, size);
  };
  append(&length, sizeof length);
  append(text.data(), text.size());
  for (const NamedTensor& tensor : tensors) append(tensor.data, bytes_of(tensor));
  file.close();
  return {static_cast<int64_t>(sizeof length + length + offset), checksum.value()};
}

void read_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path, ": cannot be read");
  uint64_t start = 0;
  const Json header = read_header(file, path, &start);
  for (const NamedTensor& tensor : tensors) {
    require(header.contains(tensor.name), path, ": has no tensor \"", tensor.name, "\"");
    const Json& entry = header.at(tensor.name);
    const Json want = entry_of(tensor, 0);
    require(entry.contains("dtype") && entry["dtype"] == want["dtype"] && entry.contains("shape") &&
                entry["shape"] == want["shape"] && spans(entry, bytes_of(tensor)),
            path, ": tensor \"", tensor.name, "\" must be F32 ", want["shape"].dump(), ", not ", entry.dump());
  }
  for (const auto& [name, entry] : header.items()) {
    bool known = name == "__metadata__";
    for (const NamedTensor& tensor : tensors) known = known || tensor.name == name;
    require(known, path, ": has a tensor \"", name, "\" that this model does not have");
  }
  for (const NamedTensor& tensor : tensors) {
    const uint64_t offset = header.at(tensor.name).at("data_offsets").at(0).get<uint64_t>();
    file.seekg(static_cast<std::streamoff>(start + offset));
    file.read(reinterpret_cast<char*>(tensor.data), static_cast<std::streamsize>(bytes_of(tensor)));
    require(file.gcount() == static_cast<std::streamsize>(bytes_of(tensor)), path, ": ends within tensor \"",
            tensor.name, "\"");
  }
}

}  // namespace scfa

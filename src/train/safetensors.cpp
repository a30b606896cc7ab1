#include "train/safetensors.h"

#include <optional>
#include <set>

#include "data/checksum.h"
#include "data/input_file.h"
#include "data/json_file.h"
#include "data/output_file.h"

namespace scfa {

namespace {

constexpr int64_t kMaxHeader = 100'000'000;  // as the format's own reader has it
constexpr size_t kMaxTensors = 2'000'000;    // more than a header of that size has room for

size_t bytes_of(const NamedTensor& tensor) {
  size_t bytes = sizeof(float);
  for (const int64_t n : tensor.shape) bytes *= static_cast<size_t>(n);
  return bytes;
}

Json entry_of(const NamedTensor& tensor, size_t offset) {
  return {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes_of(tensor)}}};
}

// Where the bytes of an entry begin within the data; nothing unless it is as a tensor's must be, within `size` bytes.
std::optional<int64_t> offset_of(const SortedJson& entry, const NamedTensor& tensor, int64_t size) {
  if (!entry.is_object() || !entry.contains("dtype") || entry["dtype"] != "F32") return {};
  if (!entry.contains("shape") || entry["shape"] != SortedJson(tensor.shape)) return {};
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) return {};
  if (!(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) return {};
  const auto begin = (*offsets)[0].get<uint64_t>(), end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end > static_cast<uint64_t>(size) || end - begin != bytes_of(tensor)) return {};
  return static_cast<int64_t>(begin);
}

// The header of a file and where its data starts.
SortedJson read_header(const InputFile& file, int64_t* data_start) {
  uint64_t length = 0;
  require(file.size() >= static_cast<int64_t>(sizeof length), file.path(), ": is not a safetensors file");
  file.read(0, &length, sizeof length);
  require(length <= static_cast<uint64_t>(kMaxHeader), file.path(),
          ": is not a safetensors file: its header would have ", length, " bytes");
  *data_start = static_cast<int64_t>(sizeof length + length);
  require(file.size() >= *data_start, file.path(), ": ends within its header");
  std::string text(length, '\0');
  file.read(sizeof length, text.data(), static_cast<int64_t>(length));
  return parse_sorted_json(text, file.path() + ": its header", {.bytes = kMaxHeader, .depth = 8, .keys = kMaxTensors});
}

}  // namespace

WrittenFile write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const TensorMetadata& metadata) {
  std::string text = "{\"__metadata__\":" + Json(metadata).dump();
  size_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    text += "," + Json(tensor.name).dump() + ":" + entry_of(tensor, offset).dump();
    offset += bytes_of(tensor);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  require(static_cast<int64_t>(text.size()) <= kMaxHeader, path, ": the names and shapes of ", tensors.size(),
          " tensors take ", text.size(), " bytes, more than the header of a safetensors file can have");
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

void read_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors, const std::string& ignored) {
  const InputFile file(path);
  int64_t start = 0;
  const SortedJson header = read_header(file, &start);
  std::vector<std::optional<int64_t>> offsets;
  std::set<std::string> known{"__metadata__"};
  for (const NamedTensor& tensor : tensors) {
    known.insert(tensor.name);
    const auto entry = header.find(tensor.name);
    if (entry == header.end() && tensor.optional) {
      offsets.emplace_back();
      continue;
    }
    require(entry != header.end(), path, ": has no tensor \"", tensor.name, "\"");
    const std::optional<int64_t> offset = offset_of(*entry, tensor, file.size() - start);
    require(offset.has_value(), path, ": tensor \"", tensor.name, "\" must be F32 ", Json(tensor.shape).dump(),
            " within the file, not ", abbreviate(entry->dump(-1, ' ', false, SortedJson::error_handler_t::replace)));
    offsets.push_back(offset);
  }
  for (const auto& [name, entry] : header.items())
    require(known.contains(name) || (!ignored.empty() && name.find(ignored) != std::string::npos), path,
            ": has a tensor \"", abbreviate(name), "\" that this model does not have");
  for (size_t i = 0; i < tensors.size(); ++i)
    if (offsets[i]) file.read(start + *offsets[i], tensors[i].data, static_cast<int64_t>(bytes_of(tensors[i])));
}

}  // namespace scfa

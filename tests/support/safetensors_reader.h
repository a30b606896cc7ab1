// Reads every tensor of a safetensors file, from the format's description rather than with the code under test.
#pragma once
#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"

namespace scfa::test {

struct StoredTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct SafetensorsFile {
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;

  explicit SafetensorsFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), 8);
    require(file.good(), path, ": cannot be read");
    std::string text(length, '\0');
    file.read(text.data(), static_cast<std::streamsize>(length));
    const nlohmann::json header = nlohmann::json::parse(text);
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        metadata = entry.get<std::map<std::string, std::string>>();
        continue;
      }
      require(entry["dtype"] == "F32", path, ": ", name, " is not F32");
      StoredTensor tensor{entry["shape"].get<std::vector<int64_t>>(), {}};
      const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
      tensor.values.resize((end - begin) / sizeof(float));
      file.seekg(static_cast<std::streamoff>(8 + length + begin));
      file.read(reinterpret_cast<char*>(tensor.values.data()), static_cast<std::streamsize>(end - begin));
      require(file.good(), path, ": ends within ", name);
      tensors[name] = std::move(tensor);
    }
  }

  const std::vector<float>& at(const std::string& name) const {
    const auto found = tensors.find(name);
    require(found != tensors.end(), "fixture: has no ", name);
    return found->second.values;
  }
};

}  // namespace scfa::test

// Writing a prepared set in the formats that other trainers read.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scfa {

enum class ExportFormat : uint8_t {
  kNanoGpt,  // train.bin and val.bin: bare uint16 tokens
  kLlmC,     // train_000000.bin, ... and val_000000.bin: a header of 256 int32, then uint16 tokens
};

// "nanogpt" or "llmc". Throws Error naming both.
ExportFormat parse_export_format(std::string_view name);

// Writes both splits of the set in `directory` into `folder`, which is there, and returns the names of the files.
// Throws Error if a shard is not as it was written, or a token does not fit into 16 bits.
std::vector<std::string> write_export(const std::string& directory, ExportFormat format, const std::string& folder);

// The same into a folder that must be missing or empty, and appears once it is complete.
std::vector<std::string> export_set(const std::string& directory, ExportFormat format, const std::string& output);

}  // namespace scfa

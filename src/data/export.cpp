#include "data/export.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/error.h"
#include "core/signals.h"
#include "data/folder_lock.h"
#include "data/set_files.h"
#include "data/token_file.h"
#include "data/verify.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr int32_t kLlmCMagic = 20240520, kLlmCVersion = 1;
constexpr int64_t kLlmCTokens = 100'000'000;  // a file, as llm.c's own scripts do
constexpr int64_t kBlock = 1 << 18;

void write_tokens(const TokenSet& set, int64_t begin, int64_t end, OutputFile& out) {
  std::vector<int32_t> tokens(kBlock);
  std::vector<uint16_t> packed(kBlock);
  for (int64_t at = begin; at < end;) {
    check_stop("interrupted; nothing was written");
    const int64_t count = std::min(kBlock, end - at);
    set.read(at, count, tokens.data());
    std::copy(tokens.begin(), tokens.begin() + count, packed.begin());
    out.append(packed.data(), static_cast<size_t>(count) * sizeof(uint16_t));
    at += count;
  }
}

}  // namespace

ExportFormat parse_export_format(std::string_view name) {
  if (name == "nanogpt") return ExportFormat::kNanoGpt;
  if (name == "llmc") return ExportFormat::kLlmC;
  fail("no export format is called '", name, "'; there are nanogpt and llmc");
}

std::vector<std::string> write_export(const std::string& directory, ExportFormat format, const std::string& folder) {
  const Manifest manifest = read_manifest(directory);
  require(manifest.vocab_size <= 65536, directory, ": ", manifest.vocab_size,
          " entries in the vocabulary; the formats of nanoGPT and llm.c hold tokens of 16 bits");
  require(manifest.sequence_length == 0, directory,
          ": is of synthetic sequences; the formats of nanoGPT and llm.c cannot say which tokens count in the loss");
  std::vector<std::string> names;
  for (const Split split : {Split::kTrain, Split::kVal}) {
    if (manifest.split(split).tokens() == 0) continue;
    const TokenSet set(directory, split);
    verify_shards(set);
    const int64_t per_file = format == ExportFormat::kLlmC ? kLlmCTokens : set.tokens();
    for (int64_t begin = 0; begin < set.tokens(); begin += per_file) {
      const int64_t end = std::min(set.tokens(), begin + per_file);
      names.push_back(format == ExportFormat::kLlmC ? llmc_name(split, begin / per_file) : nanogpt_name(split));
      OutputFile out((fs::path(folder) / names.back()).string());
      if (format == ExportFormat::kLlmC) {
        const std::array<int32_t, 256> header{kLlmCMagic, kLlmCVersion, static_cast<int32_t>(end - begin)};
        out.append(header.data(), sizeof(header));
      }
      write_tokens(set, begin, end, out);
      out.close();
    }
  }
  return names;
}

std::vector<std::string> export_set(const std::string& directory, ExportFormat format, const std::string& output) {
  const std::string target = follow_links(output);
  const FolderLock lock(target);
  StagedFolder::remove_stale(target, &is_export_entry);
  require(!fs::exists(fs::symlink_status(target)) || (fs::is_directory(target) && fs::is_empty(target)), output,
          ": exists; export into a new folder");
  StagedFolder staged(target, &is_export_entry);
  std::vector<std::string> names = write_export(directory, format, staged.path());
  staged.commit();
  return names;
}

}  // namespace scfa

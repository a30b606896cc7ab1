#include "data/set_files.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "core/human.h"

namespace scfa {

namespace {

constexpr std::string_view kUnfinished = "all-";  // a shard while its tokens are divided anew

bool take(std::string_view& text, std::string_view start) {
  if (!text.starts_with(start)) return false;
  text.remove_prefix(start.size());
  return true;
}

// Whether a name is that of a split, then `between`, at least so many digits, and .bin.
bool is_numbered(std::string_view name, std::string_view between, size_t digits) {
  if (!take(name, name_of(Split::kTrain)) && !take(name, name_of(Split::kVal))) return false;
  if (!take(name, between) || !name.ends_with(".bin")) return false;
  name.remove_suffix(4);
  return name.size() >= digits && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_shard(std::string_view entry) {
  return is_numbered(entry, "-", 5);
}

}  // namespace

std::string shard_name(Split split, size_t index) {
  return printed("%s-%05zu.bin", name_of(split), index);
}
std::string nanogpt_name(Split split) {
  return name_of(split) + std::string(".bin");
}
std::string llmc_name(Split split, int64_t index) {
  return printed("%s_%06lld.bin", name_of(split), static_cast<long long>(index));
}

bool is_export_entry(const std::string& entry) {
  return entry == nanogpt_name(Split::kTrain) || entry == nanogpt_name(Split::kVal) || is_numbered(entry, "_", 6);
}

bool is_set_entry(const std::string& entry) {
  if (entry == kManifestFile || entry == "nanogpt" || entry == "llmc") return true;
  std::string_view rest = entry;
  if (take(rest, "nanogpt/")) return rest == nanogpt_name(Split::kTrain) || rest == nanogpt_name(Split::kVal);
  if (take(rest, "llmc/")) return is_numbered(rest, "_", 6);
  take(rest, kUnfinished);
  return is_shard(rest);
}

IsOurs entries_of(const Manifest& manifest) {
  std::set<std::string> shards;
  for (const Split split : {Split::kTrain, Split::kVal})
    for (const ShardInfo& shard : manifest.split(split).shards) shards.insert(shard.file);
  return [shards](const std::string& entry) {
    return is_set_entry(entry) &&
           (entry == kManifestFile || entry.find('-') == std::string::npos || shards.contains(entry));
  };
}

}  // namespace scfa

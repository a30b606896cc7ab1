#include "data/manifest.h"

#include <filesystem>

#include "core/error.h"
#include "data/checksum.h"
#include "data/json_file.h"

namespace scfa {

namespace {

constexpr const char* kFormat = "scfa-tokens";
constexpr const char* kChecksum = "xxh3";
constexpr int kVersion = 2;  // 1 had no checksum of its own
constexpr int64_t kMaxManifestBytes = int64_t{512} << 20;
constexpr int64_t kMaxShardCount = int64_t{1} << 42;

template <class Member>
int64_t total(const SplitInfo& split, Member member) {
  int64_t sum = 0;
  for (const ShardInfo& shard : split.shards) sum += shard.*member;
  return sum;
}

// So bounded that no sum overflows.
int64_t bounded_count(const JsonReader& shard, const char* key) {
  const int64_t count = shard.count(key);
  require(count <= kMaxShardCount, shard.path(), ": '", shard.prefix(), key, "' is ", count, ", more than ",
          kMaxShardCount);
  return count;
}

ShardInfo read_shard_info(const JsonReader& shard) {
  ShardInfo info;
  info.file = shard.text("file");
  require(!info.file.empty() && info.file.find('/') == std::string::npos, shard.path(), ": '", shard.prefix(),
          "file' must be the name of a file in the same folder, not '", abbreviate(info.file), "'");
  info.tokens = bounded_count(shard, "tokens");
  info.documents = bounded_count(shard, "documents");
  info.bytes = bounded_count(shard, "bytes");
  info.xxh3 = shard.hex("xxh3");
  if (shard.has("counted")) info.counted = bounded_count(shard, "counted");
  require(info.counted <= info.tokens, shard.path(), ": '", shard.prefix(), "counted' is more than its tokens");
  return info;
}

uint32_t vocabulary_number(const JsonReader& root, const char* key) {
  const int64_t number = root.count(key);
  require(number <= INT32_MAX, root.path(), ": '", key, "' is ", number, ", too large");
  return static_cast<uint32_t>(number);
}

// The checksum of a manifest is over its text as to_json writes it, without the checksum itself.
std::string checksum(Json json) {
  json.erase(kChecksum);
  const std::string text = json.dump(2);
  return to_hex(checksum_of(text.data(), text.size()));
}

void check_version(const JsonReader& root, const Json& json) {
  const int64_t version = root.count("version");
  require(version == 1 || version == kVersion, root.path(), ": version ", version, " of the format, this program ",
          "reads versions 1 and ", kVersion);
  require((version == 1) != root.has(kChecksum), root.path(), ": corrupt: version ", version,
          version == 1 ? " has a key '" : " has no key '", kChecksum, "'");
  if (version > 1)
    require(root.text(kChecksum) == checksum(json), root.path(), ": corrupt: its checksum is not the one written");
}

SplitInfo read_split_info(const JsonReader& split) {
  SplitInfo info;
  const Json& shards = split.at("shards");
  require(shards.is_array() && shards.size() <= kMaxShards, split.path(), ": '", split.prefix(),
          "shards' must be a list of at most ", kMaxShards, " shards");
  for (size_t i = 0; i < shards.size(); ++i)
    info.shards.push_back(
        read_shard_info(JsonReader(shards[i], split.path(), concat(split.prefix(), "shards[", i, "]."))));
  require(split.count("tokens") == info.tokens(), split.path(), ": '", split.prefix(), "tokens' is ",
          split.count("tokens"), " but the shards add up to ", info.tokens());
  return info;
}

Json split_to_json(const SplitInfo& split) {
  Json shards = Json::array();
  for (const ShardInfo& shard : split.shards) {
    shards.push_back({{"file", shard.file},
                      {"tokens", shard.tokens},
                      {"documents", shard.documents},
                      {"bytes", shard.bytes},
                      {"xxh3", to_hex(shard.xxh3)}});
    if (shard.counted > 0) shards.back()["counted"] = shard.counted;
  }
  return {{"tokens", split.tokens()}, {"documents", split.documents()}, {"bytes", split.bytes()}, {"shards", shards}};
}

}  // namespace

int64_t SplitInfo::tokens() const {
  return total(*this, &ShardInfo::tokens);
}
int64_t SplitInfo::documents() const {
  return total(*this, &ShardInfo::documents);
}
int64_t SplitInfo::bytes() const {
  return total(*this, &ShardInfo::bytes);
}
int64_t SplitInfo::counted() const {
  return total(*this, &ShardInfo::counted);
}

Manifest read_manifest(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / kManifestFile).string();
  std::error_code error;
  require(std::filesystem::exists(path, error), directory, ": no prepared set here (", path, " ",
          error ? error.message() : "is not there", "); prepare_data makes one");
  const Json json = read_json_file(path, {.bytes = kMaxManifestBytes});
  const JsonReader root(json, path);
  require(root.text("format") == kFormat, path, ": 'format' is '", abbreviate(root.text("format")), "', not '", kFormat,
          "'");
  check_version(root, json);
  Manifest manifest;
  manifest.tokenizer = root.text("tokenizer");
  manifest.vocab_size = vocabulary_number(root, "vocab_size");
  manifest.end_of_text = vocabulary_number(root, "end_of_text");
  require(manifest.end_of_text < manifest.vocab_size, path, ": 'end_of_text' must be below 'vocab_size'");
  const std::string dtype = root.text("dtype");
  require(dtype == "uint16" || dtype == "uint32", path, ": 'dtype' must be uint16 or uint32, not '", abbreviate(dtype),
          "'");
  manifest.dtype = dtype == "uint16" ? TokenType::kU16 : TokenType::kU32;
  const JsonReader validation = root.object("validation");
  manifest.val_fraction = validation.number("fraction");
  require(validation.at("seed").is_number_unsigned(), path, ": 'validation.seed' must be a whole number, zero or more");
  manifest.seed = validation.at("seed").get<uint64_t>();
  manifest.val_is_tail = validation.text("rule") == "tail";
  if (root.has("sequence_length")) {
    manifest.sequence_length = root.count("sequence_length");
    require(manifest.sequence_length > 0 && manifest.dtype == TokenType::kU16 && manifest.vocab_size <= kCountsBit,
            path, ": 'sequence_length' goes with tokens of 15 bits");
  }
  for (const Split which : {Split::kTrain, Split::kVal})
    manifest.split(which) = read_split_info(root.object("splits").object(name_of(which)));
  return manifest;
}

std::string to_json(const Manifest& manifest) {
  Json json = {
      {"format", kFormat},
      {"version", kVersion},
      {"tokenizer", manifest.tokenizer},
      {"vocab_size", manifest.vocab_size},
      {"end_of_text", manifest.end_of_text},
      {"dtype", name_of(manifest.dtype)},
      {"tokens", manifest.train.tokens() + manifest.val.tokens()},
      {"documents", manifest.train.documents() + manifest.val.documents()},
      {"bytes", manifest.train.bytes() + manifest.val.bytes()},
      {"validation",
       {{"fraction", manifest.val_fraction},
        {"seed", manifest.seed},
        {"rule", manifest.val_is_tail ? "tail" : "documents"}}},
      {"splits", {{"train", split_to_json(manifest.train)}, {"val", split_to_json(manifest.val)}}},
  };
  if (manifest.sequence_length > 0) json["sequence_length"] = manifest.sequence_length;
  json[kChecksum] = checksum(json);
  return json.dump(2) + "\n";
}

}  // namespace scfa

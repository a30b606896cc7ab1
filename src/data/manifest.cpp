#include "data/manifest.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/checksum.h"

namespace scfa {

using Json = nlohmann::ordered_json;

namespace {

constexpr const char* kFormat = "scfa-tokens";
constexpr int kVersion = 1;

template <class Member>
int64_t total(const SplitInfo& split, Member member) {
  int64_t sum = 0;
  for (const ShardInfo& shard : split.shards) sum += shard.*member;
  return sum;
}

// Typed access to the members of one object, with errors that name the file and the key.
class Reader {
 public:
  Reader(const Json& object, std::string path, std::string prefix)
      : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {
    require(object_.is_object(), path_, ": ", prefix_.empty() ? "the file" : prefix_, " must be a JSON object");
  }

  const Json& at(const char* key) const {
    require(object_.contains(key), path_, ": no key '", prefix_, key, "'");
    return object_[key];
  }
  std::string text(const char* key) const {
    require(at(key).is_string(), path_, ": '", prefix_, key, "' must be a string");
    return at(key).get<std::string>();
  }
  int64_t count(const char* key) const {
    const Json& value = at(key);
    require(value.is_number_integer() && (value.is_number_unsigned() || value.get<int64_t>() >= 0), path_, ": '",
            prefix_, key, "' must be a whole number, zero or more");
    return value.get<int64_t>();
  }
  Reader object(const char* key) const { return Reader(at(key), path_, concat(prefix_, key, ".")); }
  const std::string& path() const { return path_; }
  const std::string& prefix() const { return prefix_; }

 private:
  const Json& object_;
  std::string path_, prefix_;
};

ShardInfo read_shard_info(const Reader& shard) {
  ShardInfo info;
  info.file = shard.text("file");
  require(!info.file.empty() && info.file.find('/') == std::string::npos, shard.path(), ": '", shard.prefix(),
          "file' must be the name of a file in the same folder, not '", info.file, "'");
  info.tokens = shard.count("tokens");
  info.documents = shard.count("documents");
  info.bytes = shard.count("bytes");
  const std::string hex = shard.text("xxh3");
  require(hex.size() == 16 && hex.find_first_not_of("0123456789abcdef") == std::string::npos, shard.path(), ": '",
          shard.prefix(), "xxh3' must be 16 hexadecimal digits, not '", hex, "'");
  info.xxh3 = std::stoull(hex, nullptr, 16);
  return info;
}

SplitInfo read_split_info(const Reader& split) {
  SplitInfo info;
  const Json& shards = split.at("shards");
  require(shards.is_array(), split.path(), ": '", split.prefix(), "shards' must be a list");
  for (size_t i = 0; i < shards.size(); ++i)
    info.shards.push_back(read_shard_info(Reader(shards[i], split.path(), concat(split.prefix(), "shards[", i, "]."))));
  require(split.count("tokens") == info.tokens(), split.path(), ": '", split.prefix(), "tokens' is ",
          split.count("tokens"), " but the shards add up to ", info.tokens());
  return info;
}

Json split_to_json(const SplitInfo& split) {
  Json shards = Json::array();
  for (const ShardInfo& shard : split.shards)
    shards.push_back({{"file", shard.file},
                      {"tokens", shard.tokens},
                      {"documents", shard.documents},
                      {"bytes", shard.bytes},
                      {"xxh3", to_hex(shard.xxh3)}});
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

Manifest read_manifest(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / kManifestFile).string();
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), directory, ": no prepared set here (", path, " cannot be opened); prepare_data makes one");
  Json json;
  try {
    json = Json::parse(file);
  } catch (const Json::exception& error) {
    fail(path, ": not valid JSON: ", error.what());
  }
  const Reader root(json, path, "");
  require(root.text("format") == kFormat, path, ": 'format' is '", root.text("format"), "', not '", kFormat, "'");
  require(root.count("version") == kVersion, path, ": version ", root.count("version"), " of the format, this program ",
          "reads version ", kVersion);
  Manifest manifest;
  manifest.tokenizer = root.text("tokenizer");
  manifest.vocab_size = static_cast<uint32_t>(root.count("vocab_size"));
  manifest.end_of_text = static_cast<uint32_t>(root.count("end_of_text"));
  require(manifest.end_of_text < manifest.vocab_size, path, ": 'end_of_text' must be below 'vocab_size'");
  const std::string dtype = root.text("dtype");
  require(dtype == "uint16" || dtype == "uint32", path, ": 'dtype' must be uint16 or uint32, not '", dtype, "'");
  manifest.dtype = dtype == "uint16" ? TokenType::kU16 : TokenType::kU32;
  const Reader validation = root.object("validation");
  require(validation.at("fraction").is_number(), path, ": 'validation.fraction' must be a number");
  manifest.val_fraction = validation.at("fraction").get<double>();
  manifest.seed = static_cast<uint64_t>(validation.count("seed"));
  manifest.val_is_tail = validation.text("rule") == "tail";
  for (const Split which : {Split::kTrain, Split::kVal})
    manifest.split(which) = read_split_info(root.object("splits").object(name_of(which)));
  return manifest;
}

std::string to_json(const Manifest& manifest) {
  const Json json = {
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
  return json.dump(2) + "\n";
}

}  // namespace scfa

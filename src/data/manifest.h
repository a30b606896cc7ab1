// The description of a prepared set: manifest.json of its folder. docs/data.md lists the keys.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace scfa {

enum class Split : uint8_t { kTrain, kVal };
constexpr const char* name_of(Split split) {
  return split == Split::kTrain ? "train" : "val";
}

// How a token is stored: an unsigned little-endian integer of this many bytes.
enum class TokenType : uint32_t { kU16 = 2, kU32 = 4 };
constexpr const char* name_of(TokenType type) {
  return type == TokenType::kU16 ? "uint16" : "uint32";
}
constexpr int64_t size_of(TokenType type) {
  return static_cast<int64_t>(type);
}

struct ShardInfo {
  std::string file;       // name within the folder
  int64_t tokens = 0;     // end-of-text tokens included
  int64_t documents = 0;  // documents that end in this shard: its end-of-text tokens
  int64_t bytes = 0;      // bytes of text behind its tokens
  uint64_t xxh3 = 0;      // XXH3-64 of the tokens as stored
  int64_t counted = 0;    // tokens that count in the loss, where not all do
};

struct SplitInfo {
  std::vector<ShardInfo> shards;

  int64_t tokens() const;
  int64_t documents() const;
  int64_t bytes() const;
  int64_t counted() const;
};

struct Manifest {
  std::string tokenizer;
  uint32_t vocab_size = 0;
  uint32_t end_of_text = 0;
  TokenType dtype = TokenType::kU16;
  double val_fraction = 0;   // as asked for
  uint64_t seed = 0;         // of the choice of validation documents
  bool val_is_tail = false;  // validation is the last tokens of the text, not chosen documents
  // Of a set of synthetic sequences: tokens in each. kCountsBit of a stored token says that it counts in the loss. 0: a
  // set of text, all of whose tokens count.
  int64_t sequence_length = 0;
  SplitInfo train, val;

  const SplitInfo& split(Split which) const { return which == Split::kTrain ? train : val; }
  SplitInfo& split(Split which) { return which == Split::kTrain ? train : val; }
};

inline constexpr uint32_t kCountsBit = 0x8000;
inline constexpr const char* kSyntheticTokenizer = "synthetic";

inline constexpr size_t kMaxShards = size_t{1} << 20;  // of a split

inline constexpr const char* kManifestFile = "manifest.json";

// Reads and checks manifest.json of a folder. Throws Error naming the file and the key at fault.
Manifest read_manifest(const std::string& directory);

// The text of manifest.json; the same set gives the same bytes.
std::string to_json(const Manifest& manifest);

}  // namespace scfa

// Token shards. A shard is a header of 64 bytes and then the tokens; manifest.json beside the shards
// lists them (docs/data.md has the layout byte by byte).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/input_file.h"
#include "data/manifest.h"

namespace scfa {

struct ShardHeader {
  char magic[8];         // "scfa-tok"
  uint32_t version;      // 1
  uint32_t token_bytes;  // 2 or 4
  uint64_t tokens;
  uint32_t vocab_size;
  uint32_t end_of_text;
  char tokenizer[16];    // name, padded with zeros
  uint8_t reserved[16];  // zeros
};
static_assert(sizeof(ShardHeader) == 64);

// The header of a shard with that many tokens.
ShardHeader make_shard_header(const Manifest& manifest, int64_t tokens);

// The tokens of one split of a prepared set, as one sequence.
class TokenSet {
 public:
  // Opens a split of the set in `directory`. Throws Error if the folder, the manifest or a shard is missing, foreign,
  // truncated, empty, of another type or tokenizer than the manifest says, or if the split has no tokens. Checksums are
  // not computed here; data/verify.h does.
  TokenSet(const std::string& directory, Split split);

  int64_t tokens() const { return tokens_; }
  // Copies tokens [offset, offset + count), across shards if need be. Safe from any number of threads. Throws Error if
  // the range does not fit, the shard cannot be read (it became shorter, for one), or a token is not below vocab_size
  // (naming the shard and the place in it).
  void read(int64_t offset, int64_t count, int32_t* out) const;
  // The same as targets: kIgnoredTarget for what does not count in the loss.
  void read_targets(int64_t offset, int64_t count, int32_t* out) const;
  // Tokens of the split that count in the loss, as a share of all.
  double counted_share() const;

  const Manifest& manifest() const { return manifest_; }
  // A shard as it was opened, whatever stands under its name by now.
  const InputFile& file(size_t shard) const { return shards_.at(shard).file; }
  const std::string& directory() const { return directory_; }
  Split split() const { return split_; }

 private:
  struct Shard {
    InputFile file;
    int64_t begin;  // index of its first token in the split
    int64_t tokens;
  };
  bool is_synthetic() const { return manifest_.sequence_length > 0; }
  void read_stored(int64_t offset, int64_t count, int32_t* out) const;
  void read_shard(const Shard& shard, int64_t offset, int64_t count, int32_t* out) const;

  std::string directory_;
  Split split_;
  Manifest manifest_;
  std::vector<Shard> shards_;
  int64_t tokens_ = 0;
};

}  // namespace scfa

#include "data/verify.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/ignored_target.h"
#include "core/signals.h"
#include "data/input_file.h"
#include "data/piece_encoder.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 1 << 18;

// Counts what the manifest says of one shard; reading checks the range of the tokens.
void verify_counts(const TokenSet& set, int64_t begin, const ShardInfo& info, const TokenLengths* lengths) {
  int64_t documents = 0, bytes = 0, counted = 0;
  std::vector<uint32_t> tokens;
  for (int64_t at = 0; at < info.tokens; at += static_cast<int64_t>(tokens.size())) {
    check_stop(set.directory(), ": checking was interrupted");
    tokens.resize(static_cast<size_t>(std::min(kBlock, info.tokens - at)));
    set.read(begin + at, static_cast<int64_t>(tokens.size()), reinterpret_cast<int32_t*>(tokens.data()));
    documents += std::count(tokens.begin(), tokens.end(), set.manifest().end_of_text);
    if (lengths != nullptr) {
      bytes += lengths->bytes(tokens);
      continue;
    }
    std::vector<int32_t> targets(tokens.size());
    set.read_targets(begin + at, static_cast<int64_t>(targets.size()), targets.data());
    counted += static_cast<int64_t>(targets.size()) - std::count(targets.begin(), targets.end(), kIgnoredTarget);
  }
  const std::string where = set.directory() + ": " + info.file;
  require(documents == info.documents, where, " has ", documents, " documents, the manifest says ", info.documents);
  require(counted == info.counted, where, " has ", counted, " tokens that count in the loss, the manifest says ",
          info.counted);
  require(bytes == info.bytes, where, " has ", bytes, " bytes of text, the manifest says ", info.bytes);
}

}  // namespace

int64_t verify_shards(const TokenSet& set, const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t width = size_of(set.manifest().dtype), total = set.tokens() * width;
  const std::vector<ShardInfo>& shards = set.manifest().split(set.split()).shards;
  int64_t done = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const InputFile& file = set.file(i);
    const int64_t begin = static_cast<int64_t>(sizeof(ShardHeader)), end = begin + shards[i].tokens * width;
    const uint64_t hash = checksum_of_file(file, begin, end, [&](int64_t bytes) {
      if (progress) progress(done + bytes, total);
    });
    require(hash == shards[i].xxh3, file.path(), ": corrupt: its checksum is not the one in ", kManifestFile);
    done += end - begin;
  }
  return done;
}

Manifest verify_set(const std::string& directory) {
  const Manifest manifest = read_manifest(directory);
  std::optional<TokenLengths> lengths;  // of a synthetic set there are none
  if (manifest.sequence_length == 0) {
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(manifest.tokenizer);
    lengths.emplace(*tokenizer);
    require(tokenizer->vocab_size() == manifest.vocab_size, directory, ": ", manifest.vocab_size,
            " entries in the vocabulary; the tokenizer '", manifest.tokenizer, "' has ", tokenizer->vocab_size());
  }
  for (const Split split : {Split::kTrain, Split::kVal}) {
    if (manifest.split(split).tokens() == 0) continue;
    const TokenSet set(directory, split);
    verify_shards(set);
    int64_t begin = 0;
    for (const ShardInfo& info : set.manifest().split(split).shards) {
      verify_counts(set, begin, info, lengths ? &*lengths : nullptr);
      begin += info.tokens;
    }
  }
  return manifest;
}

}  // namespace scfa

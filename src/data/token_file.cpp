#include "data/token_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/ignored_target.h"

namespace scfa {

namespace {

constexpr char kMagic[8] = {'s', 'c', 'f', 'a', '-', 't', 'o', 'k'};
constexpr uint32_t kVersion = 1;

// Widens tokens and tells the largest: one pass that vectorises, so that checking costs nothing.
template <class Token>
uint32_t widen(const Token* tokens, int64_t count, int32_t* out) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t token = tokens[i];
    largest = std::max(largest, token);
    out[i] = static_cast<int32_t>(token);
  }
  return largest;
}

template <class Token>
uint32_t read_tokens(const InputFile& file, int64_t offset, int64_t count, int32_t* out) {
  constexpr int64_t kBlock = 8192;
  constexpr auto kWidth = static_cast<int64_t>(sizeof(Token));
  Token block[kBlock];
  uint32_t largest = 0;
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t part = std::min(kBlock, count - at);
    file.read(static_cast<int64_t>(sizeof(ShardHeader)) + (offset + at) * kWidth, block, part * kWidth);
    largest = std::max(largest, widen(block, part, out + at));
  }
  return largest;
}

void check_header(const InputFile& file, const Manifest& manifest, const ShardInfo& info) {
  const std::string& path = file.path();
  ShardHeader header;
  constexpr auto kHeader = static_cast<int64_t>(sizeof(header));
  require(file.size() > 0, path, ": the file is empty; prepare the set again");
  require(file.size() >= kHeader, path, ": truncated: ", file.size(), " bytes, a header alone takes ", kHeader);
  file.read(0, &header, kHeader);
  require(
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0, path,
      ": not a token shard of this program (no 'scfa-tok' at its start); prepare_data --input reads those of nanoGPT "
      "and llm.c");
  require(header.version == kVersion, path, ": version ", header.version, " of the shard format, not ", kVersion);
  const ShardHeader expected = make_shard_header(manifest, info.tokens);
  require(header.token_bytes == expected.token_bytes, path, ": mixed set: tokens of ", header.token_bytes,
          " bytes, the manifest says ", name_of(manifest.dtype));
  require(std::memcmp(header.tokenizer, expected.tokenizer, sizeof(header.tokenizer)) == 0 &&
              header.vocab_size == expected.vocab_size && header.end_of_text == expected.end_of_text,
          path, ": mixed set: made by tokenizer '", std::string(header.tokenizer, strnlen(header.tokenizer, 16)),
          "' with ", header.vocab_size, " entries, the manifest says '", manifest.tokenizer, "' with ",
          manifest.vocab_size);
  require(header.tokens == expected.tokens, path, ": holds ", header.tokens, " tokens, the manifest says ",
          info.tokens);
  require(std::memcmp(header.reserved, expected.reserved, sizeof(header.reserved)) == 0, path,
          ": corrupt: the end of its header is not zeros");
  const int64_t bytes = kHeader + info.tokens * size_of(manifest.dtype);
  require(file.size() == bytes, path, ": ", file.size() < bytes ? "truncated: " : "too long: ", file.size(), " bytes, ",
          info.tokens, " tokens take ", bytes);
}

}  // namespace

ShardHeader make_shard_header(const Manifest& manifest, int64_t tokens) {
  ShardHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.token_bytes = static_cast<uint32_t>(manifest.dtype);
  header.tokens = static_cast<uint64_t>(tokens);
  header.vocab_size = manifest.vocab_size;
  header.end_of_text = manifest.end_of_text;
  manifest.tokenizer.copy(header.tokenizer, sizeof(header.tokenizer));
  return header;
}

TokenSet::TokenSet(const std::string& directory, Split split)
    : directory_(directory), split_(split), manifest_(read_manifest(directory)) {
  for (const ShardInfo& info : manifest_.split(split).shards) {
    const std::string path = (std::filesystem::path(directory) / info.file).string();
    InputFile file(path);
    check_header(file, manifest_, info);
    shards_.push_back({std::move(file), tokens_, info.tokens});
    tokens_ += info.tokens;
  }
  require(tokens_ > 0, directory, ": the ", name_of(split), " split is empty",
          split == Split::kVal ? "; prepare it again with a larger --val-fraction" : "");
}

void TokenSet::read(int64_t offset, int64_t count, int32_t* out) const {
  read_stored(offset, count, out);
  if (!is_synthetic()) return;
  for (int64_t i = 0; i < count; ++i) out[i] &= ~static_cast<int32_t>(kCountsBit);
}

void TokenSet::read_targets(int64_t offset, int64_t count, int32_t* out) const {
  read_stored(offset, count, out);
  if (!is_synthetic()) return;
  constexpr auto kBit = static_cast<int32_t>(kCountsBit);
  for (int64_t i = 0; i < count; ++i) out[i] = out[i] & kBit ? out[i] & ~kBit : kIgnoredTarget;
}

double TokenSet::counted_share() const {
  if (!is_synthetic()) return 1;
  return static_cast<double>(manifest_.split(split_).counted()) / static_cast<double>(tokens_);
}

void TokenSet::read_stored(int64_t offset, int64_t count, int32_t* out) const {
  require(offset >= 0 && count >= 0 && count <= tokens_ - offset, directory_, ": tokens [", offset, ", ",
          offset + count, ") of the ", name_of(split_), " split, which has ", tokens_);
  auto shard = std::upper_bound(shards_.begin(), shards_.end(), offset,
                                [](int64_t at, const Shard& candidate) { return at < candidate.begin; });
  for (--shard; count > 0; ++shard) {
    const int64_t within = offset - shard->begin;
    const int64_t part = std::min(count, shard->tokens - within);
    read_shard(*shard, within, part, out);
    offset += part;
    out += part;
    count -= part;
  }
}

void TokenSet::read_shard(const Shard& shard, int64_t offset, int64_t count, int32_t* out) const {
  const uint32_t largest = manifest_.dtype == TokenType::kU16 ? read_tokens<uint16_t>(shard.file, offset, count, out)
                                                              : read_tokens<uint32_t>(shard.file, offset, count, out);
  if (largest < manifest_.vocab_size) return;
  const auto is_bad = [&](int32_t stored) {
    const auto token = static_cast<uint32_t>(stored);
    return (is_synthetic() ? token & ~kCountsBit : token) >= manifest_.vocab_size;
  };
  const auto* bad = std::find_if(out, out + count, is_bad);
  if (bad == out + count) return;
  fail(shard.file.path(), ": token ", offset + (bad - out), " is ", static_cast<uint32_t>(*bad),
       ", not below vocab_size ", manifest_.vocab_size,
       ": the file is corrupt (prepare_data verify checks a whole set)");
}

}  // namespace scfa

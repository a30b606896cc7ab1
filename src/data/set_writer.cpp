#include "data/set_writer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/signals.h"
#include "data/checksum.h"
#include "data/input_file.h"
#include "data/token_file.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr size_t kFlushBytes = size_t{1} << 20;
constexpr int64_t kBlock = 1 << 20;  // tokens handled at once

template <class Stored>
void pack(std::span<const uint32_t> tokens, std::vector<char>& out) {
  const size_t before = out.size();
  out.resize(before + tokens.size() * sizeof(Stored));
  auto* to = reinterpret_cast<Stored*>(out.data() + before);
  for (size_t i = 0; i < tokens.size(); ++i) to[i] = static_cast<Stored>(tokens[i]);
}

template <class Stored>
void unpack(const InputFile& shard, int64_t offset, int64_t count, std::vector<uint32_t>& out) {
  constexpr auto kWidth = static_cast<int64_t>(sizeof(Stored));
  std::vector<Stored> stored(static_cast<size_t>(count));
  shard.read(static_cast<int64_t>(sizeof(ShardHeader)) + offset * kWidth, stored.data(), count * kWidth);
  out.assign(stored.begin(), stored.end());
}

const SetOptions& checked(const SetOptions& options) {
  require(!options.directory.empty(), "no output folder: name one with --output");
  require(options.shard_tokens > 0, "--shard-tokens must be positive, not ", options.shard_tokens);
  const double fraction = options.val_fraction.value_or(kDefaultValFraction);
  require(fraction >= 0 && fraction < 1, "--val-fraction must be at least 0 and below 1, not ", fraction);
  return options;
}

// Refuses a target that holds anything but, if it may be replaced, a prepared set and nothing else; gives the files of
// that set.
std::optional<IsOurs> check_target(const SetOptions& options, const std::string& target) {
  const std::string& name = options.directory;
  StagedFolder::remove_stale(target, &is_set_entry);
  if (!fs::exists(fs::symlink_status(target)) || (fs::is_directory(target) && fs::is_empty(target))) return {};
  require(fs::is_directory(target) && fs::exists(fs::path(target) / kManifestFile), name,
          ": exists and is not a prepared set; choose another --output");
  require(options.overwrite, name, ": there is a prepared set already; --overwrite replaces it");
  IsOurs known;
  try {
    known = entries_of(read_manifest(target));
  } catch (const Error& error) {
    fail(name, ": not replaced, because its manifest cannot be read (", error.what(),
         "); choose another --output, or remove it yourself");
  }
  const std::vector<std::string> foreign = foreign_entries(target, known);
  require(foreign.empty(), name, ": not replaced, because it also holds ", foreign.empty() ? "" : foreign.front(),
          foreign.size() > 1 ? concat(" and ", foreign.size() - 1, " more") : "", ", which ",
          foreign.size() > 1 ? "are" : "is", " not of the set; move that away, or choose another --output");
  return known;
}

}  // namespace

struct SplitWriter::OpenShard : ShardInfo {
  OpenShard(const std::string& folder, const std::string& name) : out(folder + "/" + name) { file = name; }
  OutputFile out;
  Checksum checksum;
};

SplitWriter::SplitWriter(const Manifest& manifest, const TokenLengths& lengths, std::string folder, Split split,
                         int64_t shard_tokens)
    : manifest_(manifest), lengths_(lengths), folder_(std::move(folder)), split_(split), shard_tokens_(shard_tokens) {}

SplitWriter::~SplitWriter() = default;

void SplitWriter::append(std::span<const uint32_t> tokens, int64_t bytes) {
  while (!tokens.empty()) {
    if (open_ == nullptr || open_->tokens == shard_tokens_) {
      end_shard();
      begin_shard();
    }
    const auto room = static_cast<size_t>(std::min(shard_tokens_ - open_->tokens, kBlock));
    const std::span<const uint32_t> part = tokens.first(std::min(room, tokens.size()));
    const bool last = part.size() == tokens.size() || manifest_.sequence_length > 0;  // no text stands behind sequences
    const int64_t part_bytes = last ? bytes : lengths_.bytes(part);
    append_to_shard(part, part_bytes);
    tokens = tokens.subspan(part.size());
    bytes -= part_bytes;
  }
}

void SplitWriter::begin_shard() {
  require(info_.shards.size() < kMaxShards, "--shard-tokens ", shard_tokens_, ": more than ", kMaxShards, " shards");
  open_ = std::make_unique<OpenShard>(folder_, shard_name(split_, info_.shards.size()));
  const ShardHeader unfinished{};  // no magic: it opens only once it is complete
  open_->out.append(&unfinished, sizeof(unfinished));
}

void SplitWriter::append_to_shard(std::span<const uint32_t> tokens, int64_t bytes) {
  manifest_.dtype == TokenType::kU16 ? pack<uint16_t>(tokens, packed_) : pack<uint32_t>(tokens, packed_);
  if (packed_.size() >= kFlushBytes) flush();
  open_->tokens += static_cast<int64_t>(tokens.size());
  open_->documents += std::count(tokens.begin(), tokens.end(), manifest_.end_of_text);
  if (manifest_.sequence_length > 0)
    open_->counted += std::count_if(tokens.begin(), tokens.end(), [](uint32_t token) { return token & kCountsBit; });
  open_->bytes += bytes;
  tokens_ += static_cast<int64_t>(tokens.size());
}

void SplitWriter::flush() {
  open_->out.append(packed_.data(), packed_.size());
  open_->checksum.update(packed_.data(), packed_.size());
  packed_.clear();
}

void SplitWriter::end_shard() {
  if (open_ == nullptr) return;
  flush();
  const ShardHeader header = make_shard_header(manifest_, open_->tokens);
  open_->out.write_at_start(&header, sizeof(header));
  open_->out.close();
  open_->xxh3 = open_->checksum.value();
  info_.shards.push_back(*open_);
  open_ = nullptr;
}

SplitInfo SplitWriter::finish() {
  end_shard();
  return std::move(info_);
}

SetWriter::SetWriter(const SetOptions& options, const Tokenizer& tokenizer)
    : options_(checked(options)),
      lengths_(tokenizer),
      target_(follow_links(options.directory)),
      lock_(target_),
      replaced_(check_target(options, target_)),
      staged_(target_, &is_set_entry) {
  manifest_.tokenizer = tokenizer.name();
  manifest_.vocab_size = tokenizer.vocab_size();
  manifest_.end_of_text = tokenizer.end_of_text();
  manifest_.dtype = tokenizer.vocab_size() <= 65536 ? TokenType::kU16 : TokenType::kU32;
  manifest_.val_fraction = options.val_fraction.value_or(kDefaultValFraction);
  manifest_.seed = options.seed;
  train_ = std::make_unique<SplitWriter>(manifest_, lengths_, folder(), Split::kTrain, options.shard_tokens);
  val_ = std::make_unique<SplitWriter>(manifest_, lengths_, folder(), Split::kVal, options.shard_tokens);
}

std::vector<std::string> SetWriter::commit() {
  if (replaced_) return staged_.replace(*replaced_);
  staged_.commit();
  return {};
}

const Manifest& SetWriter::finish() {
  manifest_.train = train_->finish();
  manifest_.val = val_->finish();
  require(manifest_.train.tokens() + manifest_.val.tokens() > 0, "the input has no text: nothing to write");
  if (manifest_.val_fraction > 0 && manifest_.val.shards.empty())
    hold_out_tail(manifest_.train);
  else if (manifest_.train.shards.empty())
    hold_out_tail(manifest_.val);
  write_file(staged_.file(kManifestFile), to_json(manifest_));
  return manifest_;
}

// Too few documents to choose from, one perhaps: all tokens are written again, the last ones as validation. Only small
// sets come here, unless a large text is a single document.
void SetWriter::hold_out_tail(SplitInfo all) {
  const int64_t total = all.tokens();
  if (!options_.val_fraction) manifest_.val_fraction = kDefaultTailFraction;
  auto wanted = static_cast<int64_t>(std::llround(static_cast<double>(total) * manifest_.val_fraction));
  if (!options_.val_fraction) wanted = std::min(wanted, kDefaultTailTokens);
  const int64_t cut = total - std::clamp<int64_t>(wanted, 1, std::max<int64_t>(total - 1, 1));
  manifest_.val_is_tail = true;
  SplitWriter train(manifest_, lengths_, folder(), Split::kTrain, options_.shard_tokens);
  SplitWriter val(manifest_, lengths_, folder(), Split::kVal, options_.shard_tokens);
  for (ShardInfo& shard : all.shards) {
    const std::string old = staged_.file("all-" + shard.file);
    fs::rename(staged_.file(shard.file), old);
    shard.file = old;
  }
  std::vector<uint32_t> block;
  for (const ShardInfo& shard : all.shards) {
    const InputFile file(shard.file);
    for (int64_t at = 0; at < shard.tokens; at += static_cast<int64_t>(block.size())) {
      check_stop("interrupted; nothing was written");
      const int64_t before_cut = cut - train.tokens();
      const int64_t count = std::min({kBlock, shard.tokens - at, before_cut > 0 ? before_cut : kBlock});
      manifest_.dtype == TokenType::kU16 ? unpack<uint16_t>(file, at, count, block)
                                         : unpack<uint32_t>(file, at, count, block);
      (before_cut > 0 ? train : val).append(block, lengths_.bytes(block));
    }
    fs::remove(shard.file);
  }
  manifest_.train = train.finish();
  manifest_.val = val.finish();
}

}  // namespace scfa

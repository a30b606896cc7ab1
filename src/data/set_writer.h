// Writing a prepared set: shards, checksums, manifest; nothing that looks like a set until all of it is on disk.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/folder_lock.h"
#include "data/manifest.h"
#include "data/output_file.h"
#include "data/piece_encoder.h"
#include "data/set_files.h"

namespace scfa {

// The shards of one split, in a folder.
class SplitWriter {
 public:
  // `manifest` says how tokens are stored. Both references must outlive the writer.
  SplitWriter(const Manifest& manifest, const TokenLengths& lengths, std::string folder, Split split,
              int64_t shard_tokens);
  ~SplitWriter();

  // Adds tokens that encode `bytes` bytes of text. Begins a new shard when one is full.
  void append(std::span<const uint32_t> tokens, int64_t bytes);

  int64_t tokens() const { return tokens_; }
  // Closes the last shard.
  SplitInfo finish();

 private:
  struct OpenShard;
  void begin_shard();
  void end_shard();
  void flush();
  void append_to_shard(std::span<const uint32_t> tokens, int64_t bytes);

  const Manifest& manifest_;
  const TokenLengths& lengths_;
  std::string folder_;
  Split split_;
  int64_t shard_tokens_;
  int64_t tokens_ = 0;
  std::unique_ptr<OpenShard> open_;
  std::vector<char> packed_;  // on its way to the open shard
  SplitInfo info_;
};

inline constexpr double kDefaultValFraction = 0.0005;
// Of a text with too few documents, if nothing else is asked for.
inline constexpr double kDefaultTailFraction = 0.1;
inline constexpr int64_t kDefaultTailTokens = 1'000'000;  // at most

struct SetOptions {
  std::string directory;
  bool overwrite = false;  // replace a prepared set that is there
  int64_t shard_tokens = 100'000'000;
  std::optional<double> val_fraction;  // share of the documents, or of the tokens of a text with too few documents
  uint64_t seed = 0;
};

class SetWriter {
 public:
  // Throws Error if the directory is taken, by files or by another writer.
  SetWriter(const SetOptions& options, const Tokenizer& tokenizer);

  // The set is of synthetic sequences of so many tokens; tokens are given with kCountsBit (Manifest::sequence_length).
  void set_sequence_length(int64_t length) { manifest_.sequence_length = length; }
  SplitWriter& split(Split which) { return which == Split::kTrain ? *train_ : *val_; }

  // If both splits are wanted and one is empty, holds out the tail of the other; then writes the manifest. The set is
  // complete on disk but not in place yet: more files may be added in folder().
  const Manifest& finish();
  const std::string& folder() const { return staged_.path(); }
  // Puts the set in place. Returns the paths of files that came into the set it replaces in the last moment; they stay.
  std::vector<std::string> commit();

 private:
  void hold_out_tail(SplitInfo all);

  SetOptions options_;
  Manifest manifest_;
  TokenLengths lengths_;
  std::string target_;
  FolderLock lock_;
  std::optional<IsOurs> replaced_;  // the files of the set that is there
  StagedFolder staged_;
  std::unique_ptr<SplitWriter> train_, val_;
};

}  // namespace scfa

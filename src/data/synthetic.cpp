#include "data/synthetic.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/ignored_target.h"
#include "core/rng.h"
#include "core/signals.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace scfa {

namespace {

constexpr int64_t kMostLength = int64_t{1} << 20, kMostEntries = 32768, kLeastEntries = 16;
constexpr int64_t kMostSequences = int64_t{1} << 24;  // numbers that the generator tells apart
constexpr int kTries = 4000;

// Uniform numbers of one sequence.
class Draws {
 public:
  Draws(uint64_t seed, Split split, int64_t number)
      : seed_(seed), split_(static_cast<uint32_t>(split)), number_(static_cast<uint32_t>(number)) {}

  double uniform() {  // in [0, 1)
    if (used_ == 4) {
      block_ = random4(seed_, Purpose::kData, split_, kSyntheticDraw, 0, number_, next_++);
      used_ = 0;
    }
    return static_cast<double>(block_.v[used_++]) * 0x1p-32;
  }
  int64_t below(int64_t count) { return static_cast<int64_t>(uniform() * static_cast<double>(count)); }

 private:
  static constexpr uint32_t kSyntheticDraw = 0xFFFF;  // of the layer coordinate: the loader uses small ones

  uint64_t seed_;
  uint32_t split_, number_, next_ = 0;
  Random4 block_{};
  size_t used_ = 4;
};

// What a set of sequences has in place of a tokenizer.
class Numbers : public Tokenizer {
 public:
  explicit Numbers(int64_t entries) : entries_(static_cast<uint32_t>(entries)) {}
  std::string_view name() const override { return kSyntheticTokenizer; }
  uint32_t vocab_size() const override { return entries_; }
  uint32_t end_of_text() const override { return entries_ - 1; }
  void encode(std::string_view /*text*/, std::vector<uint32_t>& /*tokens*/) override {
    fail("synthetic sequences are no text");
  }
  std::string_view bytes(uint32_t /*token*/) const override { return {}; }
  size_t safe_cut(std::string_view /*text*/) const override { return 0; }

 private:
  uint32_t entries_;
};

int64_t third_of(const SyntheticOptions& o) {
  return (o.vocabulary - 1) / 3;
}

int64_t block_of(const SyntheticOptions& o) {  // a key and its value
  return 1 + o.value_length;
}

// The most that a key can be before its question, which ends before the token that ends the sequence.
int64_t room(const SyntheticOptions& o) {
  return o.length - 1 - block_of(o);
}

SyntheticOptions checked(SyntheticOptions o) {
  const auto within = [](const char* option, int64_t value, int64_t least, int64_t most) {
    require(value >= least && value <= most, "--", option, ": must be from ", least, " to ", most, ", not ", value);
  };
  within("length", o.length, 8, kMostLength);
  within("sequences", o.sequences, 2, kMostSequences);  // the last one of a split is not a window
  within("val-sequences", o.val_sequences, 2, kMostSequences);
  within("vocabulary", o.vocabulary, kLeastEntries, kMostEntries);
  within("value-length", o.value_length, 1, o.length / 4);
  const bool one = o.task == SyntheticTask::kInduction;
  require(!one || o.pairs == 1, "--pairs: induction has one key, not ", o.pairs);
  const int64_t blocks = o.length * 3 / 4 / block_of(o),
                most = o.task == SyntheticTask::kMqar ? blocks / 2 : blocks - 1;
  require(o.pairs >= 1 && o.pairs <= most, "--pairs: must be from 1 to ", std::max<int64_t>(most, 0),
          ", for questions and answers to fill at most three quarters of --length ", o.length, ", not ", o.pairs);
  require(o.pairs <= third_of(o), "--pairs: ", o.pairs, " different keys need a --vocabulary of ", 3 * o.pairs + 1,
          ", not ", o.vocabulary);
  if (o.min_distance == 0) o.min_distance = block_of(o);
  if (o.max_distance == 0) o.max_distance = room(o);
  require(o.min_distance >= block_of(o) && o.max_distance <= room(o) && o.min_distance <= o.max_distance,
          "--distance: must lie within ", block_of(o), "-", room(o), ", not ", o.min_distance, "-", o.max_distance);
  return o;
}

// A sequence that is being filled.
struct Sequence {
  const SyntheticOptions& o;
  Draws draws;
  std::vector<uint32_t>& tokens;
  std::vector<bool>& counts;
  std::vector<bool> taken;

  bool free(int64_t at) const {
    if (at < 0 || at + block_of(o) > o.length - 1) return false;
    for (int64_t i = at; i < at + block_of(o); ++i)
      if (taken[static_cast<size_t>(i)]) return false;
    return true;
  }

  int64_t distance() {
    const double least = std::log(static_cast<double>(o.min_distance)),
                 most = std::log(static_cast<double>(o.max_distance) + 1);
    const auto drawn = static_cast<int64_t>(std::exp(least + (most - least) * draws.uniform()));
    return std::clamp(drawn, o.min_distance, o.max_distance);
  }

  void put(int64_t at, uint32_t key, const std::vector<uint32_t>& value, bool answers) {
    tokens[static_cast<size_t>(at)] = key;
    for (size_t i = 0; i < value.size(); ++i) {
      tokens[static_cast<size_t>(at) + 1 + i] = value[i];
      counts[static_cast<size_t>(at) + 1 + i] = answers;
    }
    for (int64_t i = at; i < at + block_of(o); ++i) taken[static_cast<size_t>(i)] = true;
  }

  std::vector<uint32_t> value() {
    std::vector<uint32_t> drawn(static_cast<size_t>(o.value_length));
    for (uint32_t& token : drawn) token = static_cast<uint32_t>(third_of(o) + draws.below(third_of(o)));
    return drawn;
  }

  // Two free places for a key: one for what is to be recalled, and one for the question, `last` or anywhere behind it.
  void put_pair(uint32_t key, int64_t last) {
    const std::vector<uint32_t> its = value();
    for (int i = 0; i < kTries; ++i) {
      const int64_t d = distance(), at = last >= 0 ? last - d : draws.below(o.length - 1 - block_of(o) - d + 1);
      if (!free(at) || !free(at + d)) continue;
      put(at, key, its, false);
      return put(at + d, key, its, true);
    }
    fail("--pairs: no room was found for ", o.pairs, " pairs at --distance ", o.min_distance, "-", o.max_distance,
         " in --length ", o.length, ": make them fewer, or the sequences longer");
  }

  void put_unasked(uint32_t key) {
    const std::vector<uint32_t> its = value();
    for (int i = 0; i < kTries; ++i)
      if (const int64_t at = draws.below(o.length - block_of(o)); free(at)) return put(at, key, its, false);
    fail("--pairs: no room was found for ", o.pairs, " pairs in --length ", o.length, ": make them fewer");
  }
};

}  // namespace

SyntheticTask parse_synthetic_task(const std::string& name) {
  if (name == "mqar") return SyntheticTask::kMqar;
  if (name == "induction") return SyntheticTask::kInduction;
  if (name == "needle") return SyntheticTask::kNeedle;
  fail("synthetic: there is no task '", name, "'; there are mqar, induction and needle");
}

void make_synthetic_sequence(const SyntheticOptions& options, Split split, int64_t number,
                             std::vector<uint32_t>& tokens, std::vector<bool>& counts) {
  const SyntheticOptions o = checked(options);
  const auto T = static_cast<size_t>(o.length);
  tokens.resize(T);
  counts.assign(T, false);
  Sequence sequence{o, Draws(o.set.seed, split, number), tokens, counts, std::vector<bool>(T, false)};
  const int64_t third = third_of(o), filler = o.vocabulary - 1 - 2 * third;
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(2 * third + sequence.draws.below(filler));
  tokens.back() = static_cast<uint32_t>(o.vocabulary - 1);
  // Different keys: the first of a shuffled third of the vocabulary (Floyd 1987).
  std::vector<uint32_t> keys;
  for (int64_t last = third - o.pairs; last < third; ++last) {
    const auto drawn = static_cast<uint32_t>(sequence.draws.below(last + 1));
    const bool known = std::find(keys.begin(), keys.end(), drawn) != keys.end();
    keys.push_back(known ? static_cast<uint32_t>(last) : drawn);
  }
  if (o.task == SyntheticTask::kInduction) keys = {0};
  std::swap(keys[0], keys[static_cast<size_t>(sequence.draws.below(o.pairs))]);  // which one is asked for
  const bool all = o.task == SyntheticTask::kMqar;
  const int64_t last = o.task == SyntheticTask::kNeedle ? o.length - 1 - block_of(o) : -1;
  for (size_t i = 0; i < keys.size(); ++i)
    if (i == 0 || all)
      sequence.put_pair(keys[i], last);
    else
      sequence.put_unasked(keys[i]);
}

Manifest write_synthetic_set(const SyntheticOptions& options, const std::function<void(int64_t, int64_t)>& progress) {
  const SyntheticOptions o = checked(options);
  const Numbers numbers(o.vocabulary);
  SetWriter writer(o.set, numbers);
  writer.set_sequence_length(o.length);
  std::vector<uint32_t> tokens;
  std::vector<bool> counts;
  int64_t done = 0;
  for (const Split split : {Split::kTrain, Split::kVal})
    for (int64_t n = 0; n < (split == Split::kTrain ? o.sequences : o.val_sequences); ++n, ++done) {
      check_stop("interrupted; nothing was written");
      make_synthetic_sequence(o, split, n, tokens, counts);
      for (size_t i = 0; i < tokens.size(); ++i)
        if (counts[i]) tokens[i] |= kCountsBit;
      writer.split(split).append(tokens, 0);
      if (progress) progress(done, o.sequences + o.val_sequences);
    }
  const Manifest manifest = writer.finish();
  writer.commit();
  return manifest;
}

std::vector<int64_t> answer_distances(const int32_t* inputs, const int32_t* targets, int64_t T) {
  std::vector<int64_t> distances(static_cast<size_t>(T), 0);
  for (int64_t t = 0; t < T; ++t) {
    if (targets[t] == kIgnoredTarget) continue;
    const auto at = static_cast<size_t>(t);
    if (t > 0 && targets[t - 1] != kIgnoredTarget) {  // the answer goes on
      distances[at] = distances[at - 1];
      continue;
    }
    for (int64_t before = t - 1; before >= 0 && distances[at] == 0; --before)
      if (inputs[before] == inputs[t]) distances[at] = t - before;
  }
  return distances;
}

}  // namespace scfa

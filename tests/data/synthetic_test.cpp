// Synthetic sequences: what they ask, and what of them counts.
#include "data/synthetic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "core/ignored_target.h"
#include "data/export.h"
#include "data/loader.h"
#include "data/token_file.h"
#include "data/verify.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace scfa {
namespace {

using test::expect_error;
using test::TempDir;

struct Sequence {
  std::vector<uint32_t> tokens;
  std::vector<bool> counts;
};

Sequence make(const SyntheticOptions& options, int64_t number, Split split = Split::kTrain) {
  Sequence sequence;
  make_synthetic_sequence(options, split, number, sequence.tokens, sequence.counts);
  return sequence;
}

// Where keys stand: entries of the first third of the vocabulary.
std::map<uint32_t, std::vector<int64_t>> places_of_keys(const SyntheticOptions& o, const Sequence& s) {
  std::map<uint32_t, std::vector<int64_t>> places;
  for (size_t i = 0; i < s.tokens.size(); ++i)
    if (s.tokens[i] < static_cast<uint32_t>((o.vocabulary - 1) / 3))
      places[s.tokens[i]].push_back(static_cast<int64_t>(i));
  return places;
}

// Every answer repeats the value behind the key's first place, and nothing else counts.
void expect_answers(const SyntheticOptions& o, const Sequence& s, int64_t keys, int64_t questions) {
  const auto places = places_of_keys(o, s);
  EXPECT_EQ(static_cast<int64_t>(places.size()), keys);
  int64_t asked = 0, counted = 0;
  for (const auto& [key, at] : places) {
    ASSERT_LE(at.size(), 2u);
    if (at.size() < 2) continue;
    ++asked;
    EXPECT_GE(at[1] - at[0], o.min_distance);
    if (o.max_distance > 0) {
      EXPECT_LE(at[1] - at[0], o.max_distance);
    }
    for (int64_t i = 1; i <= o.value_length; ++i) {
      const auto first = static_cast<size_t>(at[0] + i), second = static_cast<size_t>(at[1] + i);
      EXPECT_EQ(s.tokens[first], s.tokens[second]);
      EXPECT_FALSE(s.counts[first]);
      EXPECT_TRUE(s.counts[second]);
      ++counted;
    }
  }
  EXPECT_EQ(asked, questions);
  EXPECT_EQ(std::count(s.counts.begin(), s.counts.end(), true), counted);
  EXPECT_EQ(s.tokens.back(), static_cast<uint32_t>(o.vocabulary - 1));
}

TEST(Synthetic, EveryTaskAsksForWhatStoodBefore) {
  SyntheticOptions mqar, induction, needle;
  mqar.length = 256, mqar.pairs = 20, mqar.value_length = 2, mqar.vocabulary = 300;
  mqar.min_distance = 8, mqar.max_distance = 64;
  induction.task = SyntheticTask::kInduction, induction.length = 64, induction.pairs = 1, induction.vocabulary = 64;
  needle.task = SyntheticTask::kNeedle, needle.length = 128, needle.pairs = 5, needle.value_length = 4;
  needle.vocabulary = 97;
  for (int64_t number = 0; number < 50; ++number) {
    expect_answers(mqar, make(mqar, number), 20, 20);
    const Sequence one = make(induction, number), last = make(needle, number);
    expect_answers(induction, one, 1, 1);
    EXPECT_EQ(places_of_keys(induction, one).begin()->first, 0u);
    expect_answers(needle, last, 5, 1);
    EXPECT_TRUE(last.counts[126] && last.counts[123]);  // at the end
  }
}

TEST(Synthetic, SequencesAreOfTheirNumberAndSplitAlone) {
  SyntheticOptions o;
  o.length = 64, o.vocabulary = 100;
  EXPECT_EQ(make(o, 7).tokens, make(o, 7).tokens);
  EXPECT_NE(make(o, 7).tokens, make(o, 8).tokens);
  EXPECT_NE(make(o, 7).tokens, make(o, 7, Split::kVal).tokens);
  const auto before = make(o, 7).tokens;
  o.set.seed = 1;
  EXPECT_NE(make(o, 7).tokens, before);
}

// Of each power of two there are about as many.
TEST(Synthetic, DistancesAreLogUniform) {
  SyntheticOptions o;
  o.task = SyntheticTask::kInduction, o.length = 1200, o.pairs = 1, o.vocabulary = 64;
  o.min_distance = 2, o.max_distance = 1023;
  std::vector<int> octaves(10);
  constexpr int kSequences = 3000;
  for (int64_t number = 0; number < kSequences; ++number) {
    const std::vector<int64_t> at = places_of_keys(o, make(o, number)).at(0);
    ++octaves[static_cast<size_t>(std::log2(static_cast<double>(at[1] - at[0])))];
  }
  EXPECT_EQ(octaves[0], 0);
  for (size_t i = 1; i < octaves.size(); ++i) EXPECT_NEAR(octaves[i], kSequences / 9.0, 90) << i;
}

class SyntheticSet : public testing::Test {
 protected:
  SyntheticSet() {
    options_.length = 64, options_.sequences = 30, options_.val_sequences = 8, options_.vocabulary = 100;
    options_.pairs = 4, options_.set.directory = folder_ / "set", options_.set.shard_tokens = 1000;
  }
  TempDir folder_;
  SyntheticOptions options_;
};

TEST_F(SyntheticSet, TargetsAreTheAnswers) {
  const Manifest manifest = write_synthetic_set(options_);
  EXPECT_EQ(manifest.sequence_length, 64);
  EXPECT_EQ(manifest.train.tokens(), 30 * 64);
  EXPECT_EQ(manifest.train.documents(), 30);
  EXPECT_EQ(manifest.train.counted(), 30 * 4);
  EXPECT_EQ(manifest.val.counted(), 8 * 4);
  verify_set(options_.set.directory);
  const TokenSet set(options_.set.directory, Split::kTrain);
  EXPECT_DOUBLE_EQ(set.counted_share(), 4.0 / 64);
  std::vector<int32_t> inputs(64), targets(64);
  for (int64_t window = 0; window < count_windows(set, 64); ++window) {  // across shards
    read_window(set, window, 64, inputs.data(), targets.data());
    const Sequence want = make(options_, window);
    const std::vector<int64_t> distances = answer_distances(inputs.data(), targets.data(), 64);
    for (size_t t = 0; t < 63; ++t) {
      EXPECT_EQ(inputs[t], static_cast<int32_t>(want.tokens[t]));
      EXPECT_EQ(targets[t], want.counts[t + 1] ? static_cast<int32_t>(want.tokens[t + 1]) : kIgnoredTarget);
      const std::vector<int64_t> at =
          want.counts[t + 1] ? places_of_keys(options_, want).at(want.tokens[t]) : std::vector<int64_t>{0, 0};
      EXPECT_EQ(distances[t], at[1] - at[0]);
    }
    EXPECT_EQ(targets[63], kIgnoredTarget);  // of the next sequence
  }
  expect_error([&] { export_set(options_.set.directory, ExportFormat::kNanoGpt, folder_ / "out"); }, {"synthetic"});
  const std::string before = test::read_text(folder_ / "set/manifest.json");
  expect_error([&] { write_synthetic_set(options_); }, {"--overwrite"});
  options_.set.overwrite = true;
  write_synthetic_set(options_);
  EXPECT_EQ(test::read_text(folder_ / "set/manifest.json"), before);
}

// Of several keys each is asked for as often as any other.
TEST(Synthetic, AnyKeyMayBeTheNeedle) {
  SyntheticOptions o;
  o.task = SyntheticTask::kNeedle, o.length = 64, o.pairs = 8, o.vocabulary = 31;
  std::map<uint32_t, int> asked;
  for (int64_t number = 0; number < 2000; ++number) ++asked[make(o, number).tokens[61]];
  EXPECT_EQ(asked.size(), 10u);
  for (const auto& [key, count] : asked) EXPECT_NEAR(count, 200, 70) << key;
}

TEST_F(SyntheticSet, WhatCountsIsVerified) {
  write_synthetic_set(options_);
  Manifest manifest = read_manifest(options_.set.directory);
  ++manifest.train.shards[0].counted;
  test::write_text(folder_ / "set/manifest.json", to_json(manifest));
  expect_error([&] { verify_set(options_.set.directory); }, {"tokens that count in the loss"});
}

TEST_F(SyntheticSet, DamageIsNoticed) {
  write_synthetic_set(options_);
  std::string manifest = test::read_text(folder_ / "set/manifest.json");
  const size_t at = manifest.find("\"counted\": ");
  ASSERT_NE(at, std::string::npos);
  manifest[at + 11] = '9';
  test::write_text(folder_ / "set/manifest.json", manifest);
  expect_error([&] { verify_set(options_.set.directory); }, {"manifest.json", "corrupt"});
}

TEST_F(SyntheticSet, OptionsThatDoNotGoTogetherAreNamed) {
  const auto refused = [&](const auto& change, std::initializer_list<const char*> parts) {
    SyntheticOptions o = options_;
    change(o);
    expect_error([&] { write_synthetic_set(o); }, parts);
    EXPECT_FALSE(std::filesystem::exists(options_.set.directory));
  };
  refused([](auto& o) { o.length = 4; }, {"--length", "8", "4"});
  refused([](auto& o) { o.sequences = 1; }, {"--sequences", "2", "1"});
  refused([](auto& o) { o.vocabulary = 40000; }, {"--vocabulary", "32768"});
  refused([](auto& o) { o.pairs = 40; }, {"--pairs", "three quarters", "40"});
  refused([](auto& o) { o.pairs = 12, o.vocabulary = 20; }, {"--pairs", "--vocabulary", "37"});
  refused([](auto& o) { o.task = SyntheticTask::kInduction; }, {"--pairs", "induction", "4"});
  refused([](auto& o) { o.value_length = 20; }, {"--value-length", "16"});
  refused([](auto& o) { o.min_distance = 1, o.max_distance = 5; }, {"--distance", "2-61", "1-5"});
  refused([](auto& o) { o.min_distance = 2, o.max_distance = 99; }, {"--distance", "2-99"});
  refused([](auto& o) { o.min_distance = o.max_distance = 60, o.pairs = 10; }, {"--pairs", "no room", "60"});
  expect_error([] { parse_synthetic_task("sudoku"); }, {"sudoku", "mqar"});
}

}  // namespace
}  // namespace scfa

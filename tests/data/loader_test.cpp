#include "data/loader.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include "data/data_support.h"

namespace scfa {
namespace {

using testing::error_of;
using testing::TemporaryFolder;
using testing::write_token_set;

// Token i is i, so that every token tells where it stood.
class LoaderTest : public ::testing::Test {
 protected:
  TokenSet open(int64_t tokens, int64_t shard_tokens) {
    std::vector<uint32_t> values(static_cast<size_t>(tokens));
    std::iota(values.begin(), values.end(), 0u);
    const std::string directory = folder_.file(concat("set-", tokens, "-", shard_tokens));
    write_token_set(directory, values, shard_tokens);
    return TokenSet(directory, Split::kTrain);
  }
  static LoaderOptions options(SampleOrder order, int64_t length, int64_t batch) {
    LoaderOptions made;
    made.order = order;
    made.seed = 17;
    made.sequence_length = length;
    made.batch = batch;
    return made;
  }
  TemporaryFolder folder_;
};

TEST_F(LoaderTest, TargetsAreInputsOneLaterAcrossShards) {
  const TokenSet set = open(500, 7);
  for (const SampleOrder order : {SampleOrder::kEpoch, SampleOrder::kRandom}) {
    Loader loader(set, options(order, 20, 3));
    for (int64_t step = 0; step < 40; ++step) {
      const TokenBatch& batch = loader.batch(step, 0);
      EXPECT_EQ(batch.step, step);
      ASSERT_EQ(batch.inputs.size(), 60u);
      for (size_t i = 0; i < 60; ++i) {
        EXPECT_EQ(batch.targets[i], batch.inputs[i] + 1);
        if (i % 20 != 0) {
          EXPECT_EQ(batch.inputs[i], batch.inputs[i - 1] + 1);
        }
      }
    }
  }
}

TEST_F(LoaderTest, AnEpochIsAPermutationOfAllWindows) {
  for (const int64_t windows : {1, 2, 3, 5, 16, 17, 100, 257}) {
    const TokenSet set = open(windows * 10 + 5, 1000);
    Loader loader(set, options(SampleOrder::kEpoch, 10, 1));
    ASSERT_EQ(loader.windows(), windows);
    std::vector<std::vector<int32_t>> epochs(3);
    for (int64_t step = 0; step < 3 * windows; ++step)
      epochs[static_cast<size_t>(step / windows)].push_back(loader.batch(step, 0).inputs[0]);
    for (const auto& epoch : epochs) {
      const std::set<int32_t> starts(epoch.begin(), epoch.end());
      EXPECT_EQ(starts.size(), static_cast<size_t>(windows));
      EXPECT_EQ(*starts.begin(), 0);
      EXPECT_EQ(*starts.rbegin(), (windows - 1) * 10);
      for (const int32_t start : starts) EXPECT_EQ(start % 10, 0);
    }
    if (windows >= 16) {
      EXPECT_NE(epochs[0], epochs[1]);
      EXPECT_NE(epochs[1], epochs[2]);
      EXPECT_FALSE(std::is_sorted(epochs[0].begin(), epochs[0].end()));
    }
  }
}

TEST_F(LoaderTest, DataDoesNotDependOnHowAStepIsCut) {
  const TokenSet set = open(2000, 333);
  constexpr int64_t kGlobal = 12, kSteps = 30;  // 199 windows: 30 steps cross an epoch
  for (const SampleOrder order : {SampleOrder::kEpoch, SampleOrder::kRandom}) {
    std::map<std::pair<int64_t, uint32_t>, int32_t> expected;
    for (const auto& [world, micro_steps] :
         std::vector<std::pair<int, int64_t>>{{1, 1}, {1, 4}, {3, 1}, {2, 3}, {4, 3}}) {
      std::map<std::pair<int64_t, uint32_t>, int32_t> seen;
      for (int rank = 0; rank < world; ++rank) {
        LoaderOptions cut = options(order, 10, kGlobal / world / micro_steps);
        cut.micro_steps = micro_steps;
        cut.rank = rank;
        cut.world = world;
        Loader loader(set, cut);
        for (int64_t step = 0; step < kSteps; ++step)
          for (int64_t micro = 0; micro < micro_steps; ++micro) {
            const TokenBatch& batch = loader.batch(step, micro);
            for (size_t b = 0; b < batch.samples.size(); ++b) {
              EXPECT_EQ(batch.samples[b],
                        static_cast<uint32_t>((micro * world + rank) * cut.batch + static_cast<int64_t>(b)));
              EXPECT_TRUE(seen.emplace(std::pair(step, batch.samples[b]), batch.inputs[b * 10]).second);
            }
          }
      }
      EXPECT_EQ(seen.size(), static_cast<size_t>(kGlobal * kSteps));
      if (expected.empty()) expected = seen;
      EXPECT_EQ(seen, expected) << world << " ranks, " << micro_steps << " micro-steps";
    }
  }
}

TEST_F(LoaderTest, AnyOrderOfRequestsGivesTheSame) {
  const TokenSet set = open(1000, 128);
  LoaderOptions cut = options(SampleOrder::kEpoch, 8, 2);
  cut.micro_steps = 2;
  Loader in_order(set, cut), jumping(set, cut);
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> expected;
  for (int64_t step = 0; step < 20; ++step)
    for (int64_t micro = 0; micro < 2; ++micro) expected[{step, micro}] = in_order.batch(step, micro).inputs;
  for (const auto& [step, micro] :
       std::vector<std::pair<int64_t, int64_t>>{{19, 1}, {0, 0}, {0, 0}, {7, 1}, {8, 0}, {7, 0}, {3, 0}})
    EXPECT_EQ(jumping.batch(step, micro).inputs, (expected[{step, micro}])) << step << " " << micro;
}

TEST_F(LoaderTest, RandomOffsetsCoverTheWholeRange) {
  const TokenSet set = open(30, 100);
  Loader loader(set, options(SampleOrder::kRandom, 20, 4));
  std::map<int32_t, int> starts;
  for (int64_t step = 0; step < 500; ++step)
    for (size_t b = 0; b < 4; ++b) ++starts[loader.batch(step, 0).inputs[b * 20]];
  ASSERT_EQ(starts.size(), 10u);  // 0 .. 30 - 20 - 1
  for (const auto& [start, count] : starts) {
    EXPECT_TRUE(start >= 0 && start < 10);
    EXPECT_NEAR(count, 200, 70);
  }
}

TEST_F(LoaderTest, SeedsDiffer) {
  LoaderOptions a = options(SampleOrder::kEpoch, 10, 4), b = a;
  b.seed = 18;
  int same = 0;
  for (int64_t g = 0; g < 4; ++g) same += sample_offset(a, 100'000, 5, g) == sample_offset(b, 100'000, 5, g);
  EXPECT_LT(same, 2);
}

// The order of the data is part of what a checkpoint promises: these numbers must not change.
TEST_F(LoaderTest, OrderIsPinned) {
  std::vector<int64_t> epoch, random;
  for (int64_t g = 0; g < 4; ++g) {
    epoch.push_back(sample_offset(options(SampleOrder::kEpoch, 10, 4), 12'345, 1000, g));
    random.push_back(sample_offset(options(SampleOrder::kRandom, 10, 4), 12'345, 1000, g));
  }
  EXPECT_EQ(epoch, (std::vector<int64_t>{3330, 770, 5300, 1400}));
  EXPECT_EQ(random, (std::vector<int64_t>{1984, 9028, 6087, 4781}));
}

TEST_F(LoaderTest, ReadWindowIsTheFixedCut) {
  const TokenSet set = open(41, 9);
  EXPECT_EQ(count_windows(set, 10), 4);
  int32_t inputs[10], targets[10];
  read_window(set, 3, 10, inputs, targets);
  EXPECT_EQ(inputs[0], 30);
  EXPECT_EQ(targets[9], 40);
  EXPECT_NE(error_of([&] { read_window(set, 4, 10, inputs, targets); }).find("window 4 of the train split"),
            std::string::npos);
}

TEST_F(LoaderTest, ReportsEpochsAndWaiting) {
  const TokenSet set = open(101, 100);
  LoaderOptions cut = options(SampleOrder::kEpoch, 10, 2);
  cut.world = 2;
  Loader loader(set, cut);
  EXPECT_DOUBLE_EQ(loader.epoch(5), 2.0);  // 20 rows of 10 windows
  loader.batch(0, 0);
  EXPECT_GT(loader.data_wait_seconds(), 0);
  EXPECT_LT(loader.data_wait_seconds(), 10);
}

TEST_F(LoaderTest, RefusesWhatCannotBe) {
  const TokenSet set = open(20, 100);
  EXPECT_NE(error_of([&] {
              Loader(set, options(SampleOrder::kEpoch, 20, 1));
            }).find("has 20 tokens, too few for one window of sequence_length 20: it takes 21"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { Loader(set, options(SampleOrder::kEpoch, 19, 1)); }), "");
  LoaderOptions wrong = options(SampleOrder::kEpoch, 5, 1);
  wrong.rank = 2;
  wrong.world = 2;
  EXPECT_EQ(error_of([&] { Loader(set, wrong); }), "data: rank 2 of a world of 2");
  EXPECT_NE(error_of([&] { Loader(set, options(SampleOrder::kEpoch, 0, 1)); }).find("sequence_length"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Loader(set, options(SampleOrder::kEpoch, 5, 0)); }).find("batch"), std::string::npos);
  EXPECT_EQ(error_of([] { parse_sample_order("shuffle"); }),
            "no sample order is called 'shuffle'; there are epoch and random");
}

TEST_F(LoaderTest, AnErrorOfTheThreadReachesTheCaller) {
  const TokenSet set = open(100, 1000);
  {
    std::fstream shard(set.directory() + "/train-00000.bin", std::ios::in | std::ios::out | std::ios::binary);
    shard.seekp(64 + 2 * 55);
    shard.write("\xFF\xFF", 2);
  }
  Loader loader(set, options(SampleOrder::kEpoch, 10, 1));
  int failed = 0;
  for (int64_t step = 0; step < 9; ++step) {
    const std::string error = error_of([&] { loader.batch(step, 0); });
    if (error.empty()) continue;
    ++failed;
    EXPECT_NE(error.find("train-00000.bin: token 55 is 65535, not below vocab_size 50257"), std::string::npos) << error;
  }
  EXPECT_EQ(failed, 1);
}

TEST_F(LoaderTest, GoesAwayWithBatchesReady) {
  const TokenSet set = open(1000, 1000);
  for (int i = 0; i < 20; ++i) Loader(set, options(SampleOrder::kRandom, 100, 2));
}

}  // namespace
}  // namespace scfa

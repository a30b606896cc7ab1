#include "model/parameter_store.h"

#include <gtest/gtest.h>

#include <numeric>

#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::expect_error;
using test::small_config;

GptConfig layers(int64_t n, bool tied = true) {
  GptConfig c = small_config();
  c.n_layer = n;
  c.tied_embedding = tied;
  return c;
}

TEST(ParameterTable, GroupsCoverTheBufferInForwardOrder) {
  for (const bool tied : {true, false}) {
    const ParameterTable table(layers(3, tied));
    ASSERT_EQ(table.groups.size(), 5u);
    int64_t end = 0;
    for (const Range& group : table.groups) {
      EXPECT_EQ(group.begin, end);
      EXPECT_GT(group.size(), 0);
      end = group.end;
    }
    EXPECT_EQ(end, table.length);
    EXPECT_EQ(table.groups[0].end, table.at("h.0.ln_1.weight").offset);
    EXPECT_EQ(table.groups[2].begin, table.at("h.1.ln_1.weight").offset);
    EXPECT_EQ(table.groups[4].begin, table.at("ln_f.weight").offset);
  }
}

TEST(Buckets, AreWholeGroupsInTheOrderOfBackward) {
  const ParameterTable table(layers(6));
  const int64_t block = table.groups[1].size();
  for (const int64_t least : {int64_t{0}, block, 2 * block, 100 * block}) {
    const std::vector<Range> buckets = make_buckets(table, least);
    int64_t begin = table.length;
    for (const Range& bucket : buckets) {
      EXPECT_EQ(bucket.end, begin);
      begin = bucket.begin;
    }
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(buckets.size(), least == 0 ? 8u : least == block ? 7u : least == 2 * block ? 4u : 1u) << least;
  }
}

class Shards : public testing::TestWithParam<std::tuple<int, Device>> {
 protected:
  void SetUp() override { test::skip_without(std::get<1>(GetParam())); }
};

TEST_P(Shards, EveryParameterHasOneOwnerAndComesBackWhole) {
  const auto [ranks, device] = GetParam();
  const GptConfig c = layers(3, false);
  Context ctx(device);
  ParameterStore whole(ctx, c, {.training = true});
  whole.init(7);
  const ParameterTable& table = whole.table();
  std::vector<float> want(static_cast<size_t>(table.length));
  const Tensor host(want.data(), DType::kF32, Device::kCpu, {table.length});
  ctx.copy(host, whole.master_params());
  std::vector<int> owners(want.size());
  for (int r = 0; r < ranks; ++r) {
    ParameterStore store(ctx, c, {.training = true, .sharded = ranks > 1, .rank = r, .ranks = ranks});
    store.init(7);
    for (const State state : {State::kFirstMoment, State::kSecondMoment}) {
      ctx.copy(store.staging(state), host);
      store.put(state);
    }
    for (const State state : {State::kMasterParams, State::kFirstMoment, State::kSecondMoment}) {
      std::vector<float> got(want.size());
      ctx.copy(Tensor(got.data(), DType::kF32, Device::kCpu, {table.length}), store.take(state));
      for (const ParameterStore::Shard& shard : store.shards())
        for (int64_t i = shard.range.begin; i < shard.range.end; ++i) {
          ASSERT_EQ(got[static_cast<size_t>(i)], want[static_cast<size_t>(i)]) << i;
          owners[static_cast<size_t>(i)] += state == State::kMasterParams ? 1 : 0;
        }
    }
  }
  EXPECT_EQ(std::accumulate(owners.begin(), owners.end(), int64_t{0}), table.length);
  EXPECT_EQ(*std::max_element(owners.begin(), owners.end()), 1);
}

INSTANTIATE_TEST_SUITE_P(Model, Shards,
                         testing::Combine(testing::Values(1, 2, 3, 50), testing::Values(Device::kCpu, Device::kGpu)),
                         [](const auto& row) {
                           return concat(std::get<0>(row.param), "_", name_of(std::get<1>(row.param)));
                         });

int64_t bytes_of(const std::vector<Arena::Item>& items, const std::string& name) {
  for (const Arena::Item& item : items)
    if (item.name == name) return item.bytes;
  return 0;
}

TEST(ParameterStore, ShardedMomentsTakeTheirShare) {
  Context ctx;
  GptConfig c = layers(12);
  c.n_embd = 64;
  const auto plan = [&](int ranks) {
    return ParameterStore::memory_plan(ctx, c,
                                       {.training = true, .sharded = ranks > 1, .rank = ranks - 1, .ranks = ranks});
  };
  const auto all = static_cast<double>(bytes_of(plan(1), "optimizer state"));
  for (const int ranks : {2, 8})
    EXPECT_NEAR(static_cast<double>(bytes_of(plan(ranks), "optimizer state")) / all, 1.0 / ranks, 0.02) << ranks;
  EXPECT_EQ(bytes_of(plan(8), "parameter gradients"), bytes_of(plan(1), "parameter gradients"));
}

TEST(ParameterStore, MasterParamsInShardsAreNotGivenOutAsAWhole) {
  test::skip_without(Device::kGpu);
  if (testing::Test::IsSkipped()) return;
  Context ctx(Device::kGpu);
  ParameterStore store(ctx, small_config(), {.training = true, .sharded = true, .rank = 0, .ranks = 2});
  expect_error([&] { store.master_params(); }, "sharded over 2 ranks");
}

}  // namespace
}  // namespace scfa

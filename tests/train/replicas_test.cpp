#include "train/replicas.h"

#include <gtest/gtest.h>

#include "support/as_ranks.h"
#include "support/expect_error.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::as_ranks;
using test::expect_error;
using test::small_config;

class ReplicasOf : public testing::TestWithParam<int> {};  // zero

TEST_P(ReplicasOf, ADifferenceOfOneBitIsFoundAndItsRankNamed) {
  as_ranks(3, [](World& world) {
    TrainConfig config;
    config.zero = GetParam();
    Context ctx;
    ParameterStore store(ctx, small_config(), store_options(config, world.rank(), world.size()));
    Replicas replicas(world, store, config, false);
    store.init(1);
    replicas.compare(1);
    if (world.rank() == 2) *reinterpret_cast<uint32_t*>(store.compute_params().as<float>() + 77) ^= 1;
    expect_error<CollectiveError>(
        [&] { replicas.compare(2); },
        "after step 2 the parameters are not the same on all ranks: those of " + world.name_of(2));
    if (world.rank() == 2) *reinterpret_cast<uint32_t*>(store.compute_params().as<float>() + 77) ^= 1;
    replicas.compare(3);
  });
}

TEST_P(ReplicasOf, WhatIsUploadedComesBackFromAllRanks) {
  as_ranks(2, [](World& world) {
    TrainConfig config;
    config.zero = GetParam();
    config.bucket_mb = 0;
    Context ctx;
    ParameterStore store(ctx, small_config(), store_options(config, world.rank(), world.size()));
    Replicas replicas(world, store, config, false);
    const int64_t n = store.table().length;
    const auto value = [](State state, int64_t i) { return static_cast<float>(i + 1000 * static_cast<int>(state)); };
    HostState first(store, true, world.is_rank0());
    for (const State state : {State::kMasterParams, State::kFirstMoment, State::kSecondMoment})
      for (int64_t i = 0; world.is_rank0() && i < n; ++i) first.view(state).as<float>()[i] = value(state, i);
    replicas.upload(first);
    HostState back(store, true, world.is_rank0());
    replicas.download(back);
    for (const State state : {State::kMasterParams, State::kFirstMoment, State::kSecondMoment})
      for (int64_t i = 0; world.is_rank0() && i < n; ++i)
        ASSERT_EQ(back.view(state).as<float>()[i], value(state, i)) << i;
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(store.compute_params().as<float>()[i], value(State::kMasterParams, i));
  });
}

INSTANTIATE_TEST_SUITE_P(Train, ReplicasOf, testing::Values(0, 1));

}  // namespace
}  // namespace scfa

// Layers whose segments depend on positions alone have those of the first such layer.
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"
#include "train/preflight.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::small_config;

class FixedSegmentsOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { test::skip_without(GetParam()); }
};

struct Result {
  double loss = 0;
  std::vector<float> gradients;
  int64_t bytes = 0, filled = 0;  // layers that fill their own segments
};

Result train_once(Context& ctx, const GptConfig& c, Recompute recompute) {
  ParameterStore store(ctx, c, {.training = true});
  Gpt model(store, c, 2, 1, Gpt::Mode::kTraining, 0, recompute);
  store.init(1);
  test::fill_large(model);
  model.zero_gradients();
  Feeder feeder(ctx, 2, c.sequence_length);
  Result result;
  for (const uint32_t seed : {4u, 5u}) {  // whose documents begin elsewhere
    const OwnedBatch owned(c, 2, seed);
    const Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, owned.batch.step.value);
    result.loss += test::run(model, batch, true).loss;
    model.backward(batch);
  }
  result.gradients.resize(static_cast<size_t>(store.gradients().numel()));
  ctx.copy(Tensor(result.gradients.data(), DType::kF32, Device::kCpu, {store.gradients().numel()}), store.gradients());
  ctx.synchronize();
  result.bytes = total_bytes(model.memory());
  for (const BlockActivations& block : model.activations().blocks) result.filled += !block.segments.filled_before;
  return result;
}

TEST_P(FixedSegmentsOn, GiveTheSameBitsInLessMemory) {
  Context ctx(GetParam());
  AttentionPattern dense, window, few, hash;
  window.window = 9, few = window, few.heads = 1, hash.pattern = "hash", hash.buckets = 4;
  for (const bool shared : {false, true})
    for (const HeadPatterns& patterns : {HeadPatterns{dense}, HeadPatterns{window}, HeadPatterns{few, dense}}) {
      GptConfig c = small_config();
      c.n_layer = 4, c.shared_qk = shared, c.documents = shared, c.end_of_text = shared ? 3 : -1;
      // A parameter that dense attention does not use makes patterns differ that do the same.
      HeadPatterns other = patterns, another = patterns;
      other.back().buckets = 2, another.back().buckets = 8;
      c.attention = {patterns, {hash}, other, another};
      for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
        const Result own = train_once(ctx, c, recompute);
        GptConfig same = c;
        same.attention = {patterns, {hash}, patterns, patterns};
        const Result got = train_once(ctx, same, recompute);
        EXPECT_EQ(own.filled, 4);
        EXPECT_EQ(got.filled, 2);
        EXPECT_EQ(got.loss, own.loss);
        EXPECT_TRUE(got.gradients == own.gradients);
        EXPECT_LT(got.bytes, own.bytes);
      }
    }
}

TEST(FixedSegments, AreThoseOfDenseAttentionOnly) {
  AttentionPattern dense, hash, drop;
  hash.pattern = "hash", hash.buckets = 1, drop.pattern = "drop";
  dense.window = 3, dense.near = 2;
  EXPECT_TRUE(is_fixed({dense}));
  for (const AttentionPattern& pattern : {hash, drop}) EXPECT_FALSE(is_fixed({dense, pattern}));
  Arena arena(Device::kCpu);
  const LayerSegments layer = LayerSegments::plan(arena, {hash}, 1, 2, 8, 4);
  test::expect_error([&] { layer.for_later_layer(); }, {"for_later_layer", "hash"});
}

INSTANTIATE_TEST_SUITE_P(Gpt, FixedSegmentsOn, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

}  // namespace
}  // namespace scfa

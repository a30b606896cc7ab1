// Activations that the backward pass computes again.
#include <gtest/gtest.h>

#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"
#include "train/preflight.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::small_config;

class RecomputeOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { test::skip_without(GetParam()); }
};

// The same loss and gradients, to the bit, in less memory.
TEST_P(RecomputeOn, ChangesNoBit) {
  Context ctx(GetParam());
  AttentionPattern window, balanced, biased, drop, blocks;
  window.window = 9, window.heads = 1;
  balanced.pattern = "hash", balanced.buckets = 4, balanced.balance = "prefix", balanced.near = 5;
  biased.pattern = "hash", biased.buckets = 4, biased.rounds = 2, biased.bias_rate = 0.5;
  drop.pattern = "drop", blocks.pattern = "blocks", blocks.block = 8;
  for (const bool shared : {false, true})
    for (const std::vector<HeadPatterns>& attention :
         {std::vector<HeadPatterns>{{drop}}, {{window, balanced}, {biased}, {blocks}}}) {
      GptConfig c = small_config();
      c.n_layer = 3, c.shared_qk = shared, c.attention = attention;
      c.positions = shared ? "rotary" : "learned", c.gelu = shared ? "erf" : "tanh";
      c.documents = true, c.end_of_text = 3;
      struct Result {
        double loss;
        std::vector<float> gradients;
        std::vector<double> loads;
        int64_t bytes = 0;
      };
      const auto pass = [&](Recompute recompute) {
        ParameterStore store(ctx, c, {.training = true});
        Gpt model(store, c, 2, 1, Gpt::Mode::kTraining, 0, recompute);
        store.init(1);
        test::fill_large(model);
        test::fill_bucket_biases(model);
        model.zero_gradients();
        Feeder feeder(ctx, 2, c.sequence_length);
        Result result{};
        for (const uint32_t step : {0u, 1u}) {  // of one step, whose batches draw differently
          const OwnedBatch owned(c, 2, 4 + step);
          Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, owned.batch.step.value);
          batch.step = step;
          result.loss += test::run(model, batch, true).loss;
          model.backward(batch);
        }
        const auto read = [&](auto& values, const Tensor& from) {
          if (!from) return;
          values.resize(static_cast<size_t>(from.numel()));
          ctx.copy(Tensor(values.data(), from.dtype, Device::kCpu, {from.numel()}), from);
          ctx.synchronize();
        };
        read(result.gradients, store.gradients());
        read(result.loads, store.bucket_loads());
        result.bytes = total_bytes(model.memory());
        return result;
      };
      const Result want = pass(Recompute::kNone);
      int64_t bytes = want.bytes;
      for (const Recompute recompute : {Recompute::kGelu, Recompute::kNorms, Recompute::kBlock}) {
        const Result got = pass(recompute);
        EXPECT_EQ(got.loss, want.loss);
        EXPECT_TRUE(got.gradients == want.gradients) << static_cast<int>(recompute);
        EXPECT_EQ(got.loads, want.loads);  // counted once
        EXPECT_LT(got.bytes, bytes);
        bytes = got.bytes;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Gpt, RecomputeOn, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

}  // namespace
}  // namespace scfa

// Training passes in fp8.
#include "model/fp8.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"
#include "train/preflight.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::small_config;

GptConfig config_of(bool shared) {
  GptConfig c = small_config();
  c.n_layer = 3, c.n_embd = 32, c.sequence_length = 32, c.shared_qk = shared, c.bias = !shared;
  c.positions = shared ? "rotary" : "learned", c.gelu = shared ? "erf" : "tanh";
  c.attention[0][0].pattern = "hash", c.attention[0][0].buckets = 4;
  return c;
}

struct Pass {
  double loss = 0, evaluated = 0;
  std::vector<float> gradients;
};

Pass pass(Context& ctx, const GptConfig& c, Precision precision, Recompute recompute = Recompute::kNone) {
  ParameterStore store(ctx, c, {.training = true});
  Gpt model(store, c, 2, 1, Gpt::Mode::kTraining, 0, recompute, precision);
  store.init(1);
  test::fill_large(model, 4.0f);
  model.zero_gradients();
  Feeder feeder(ctx, 2, c.sequence_length);
  Pass result;
  for (const uint32_t step : {0u, 1u}) {
    const OwnedBatch owned(c, 2, 4 + step);
    Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, owned.batch.step.value);
    batch.step = step;
    batch.gradient_scale = 1.0f / 128;
    result.loss += test::run(model, batch, true).loss;
    model.backward(batch);
    result.evaluated += test::run(model, batch, false).loss;
  }
  result.gradients.resize(static_cast<size_t>(store.gradients().numel()));
  ctx.copy(Tensor(result.gradients.data(), DType::kF32, Device::kCpu, {store.gradients().numel()}), store.gradients());
  ctx.synchronize();
  return result;
}

// |a - b| / |b| and the cosine of the angle between them.
struct Distance {
  double relative, cosine;
};
Distance distance(const std::vector<float>& a, const std::vector<float>& b) {
  double aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
    ab += static_cast<double>(a[i]) * b[i];
  }
  return {std::sqrt(std::max(0.0, aa + bb - 2 * ab) / bb), ab / std::sqrt(aa * bb)};
}

class Fp8On : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    test::skip_without(GetParam());
    if (GetParam() == Device::kGpu && !IsSkipped() && !HasFailure() && gpu::properties().compute < 89)
      GTEST_SKIP() << "no 8-bit floating point";
  }
};

TEST_P(Fp8On, IsCloseToTheDevicesOwn) {
  Context ctx(GetParam());
  for (const bool shared : {false, true}) {
    GptConfig c = config_of(shared);
    c.attention[0][0].pattern = "dense";  // nothing jumps where queries change a little
    if (ctx.on_gpu()) c.n_embd = 128;     // heads of 64
    const Pass own = pass(ctx, c, Precision::kDefault), fp8 = pass(ctx, c, Precision::kFp8);
    const Distance d = distance(fp8.gradients, own.gradients);
    EXPECT_NEAR(fp8.loss, own.loss, 0.01 * own.loss);
    EXPECT_NE(fp8.loss, own.loss);  // it was in fp8
    EXPECT_GT(d.cosine, 0.98);
    EXPECT_LT(d.relative, 0.2);
    EXPECT_EQ(fp8.evaluated, own.evaluated);  // evaluation never is
  }
}

TEST_P(Fp8On, IsTheSameEveryTimeAndHoweverMuchIsComputedAgain) {
  Context ctx(GetParam());
  for (const bool shared : {false, true}) {
    GptConfig c = config_of(shared);
    if (ctx.on_gpu()) c.n_embd = 128;
    const Pass want = pass(ctx, c, Precision::kFp8);
    for (const Recompute recompute : kRecomputes) {
      const Pass got = pass(ctx, c, Precision::kFp8, recompute);
      EXPECT_EQ(got.loss, want.loss);
      EXPECT_TRUE(got.gradients == want.gradients) << static_cast<int>(recompute);
    }
  }
}

// Weights are rounded once a step, by its first micro-batch, and again when a step begins.
TEST_P(Fp8On, RoundsWeightsOncePerStep) {
  Context ctx(GetParam());
  GptConfig c = config_of(false);
  if (ctx.on_gpu()) c.n_embd = 128;
  ParameterStore store(ctx, c, {.training = true});
  Gpt model(store, c, 2, 1, Gpt::Mode::kTraining, 0, Recompute::kNone, Precision::kFp8);
  Feeder feeder(ctx, 2, c.sequence_length);
  const OwnedBatch owned(c, 2, 4);
  Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, owned.batch.step.value);
  const auto loss_and_rounded = [&] {
    ctx.profiler().collect(true);
    const double loss = test::run(model, batch, true).loss;
    ctx.profiler().collect(false);
    const bool rounded = ctx.profiler().take().contains("quantise");
    model.backward(batch);
    return std::pair(loss, rounded);
  };
  store.init(1);
  model.zero_gradients();
  const auto first = loss_and_rounded();
  EXPECT_TRUE(first.second);
  EXPECT_EQ(loss_and_rounded(), std::pair(first.first, false));
  store.init(2);
  model.zero_gradients();
  const auto second = loss_and_rounded();
  EXPECT_TRUE(second.second);
  EXPECT_NE(second.first, first.first);
  Gpt fresh(store, c, 2, 1, Gpt::Mode::kTraining, 0, Recompute::kNone, Precision::kFp8);
  EXPECT_EQ(test::run(fresh, batch, true).loss, second.first);
}

INSTANTIATE_TEST_SUITE_P(Gpt, Fp8On, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

// The CPU computes what the GPU does, but for sums in another order and bf16 between the ops.
TEST(Fp8Passes, OnAGpuIsCloseToTheCpu) {
  test::skip_without_gpu();
  if (testing::Test::IsSkipped() || testing::Test::HasFailure()) return;
  if (gpu::properties().compute < 89) GTEST_SKIP() << "no 8-bit floating point";
  GptConfig c = config_of(false);
  c.n_embd = 128, c.attention[0][0].pattern = "dense";
  Context cpu, on_gpu(Device::kGpu);
  const Pass want = pass(cpu, c, Precision::kFp8), got = pass(on_gpu, c, Precision::kFp8);
  EXPECT_NEAR(got.loss, want.loss, 0.01 * want.loss);
  EXPECT_GT(distance(got.gradients, want.gradients).cosine, 0.98);
}

TEST(Fp8Passes, MemoryPlanIsWhatIsAllocated) {
  Context ctx;
  const GptConfig c = config_of(true);
  ParameterStore store(ctx, c, {.training = true});
  const Gpt model(store, c, 2, 1, Gpt::Mode::kTraining, 0, Recompute::kNone, Precision::kFp8);
  const auto plan = Gpt::memory_plan(ctx, c, 2, Gpt::Mode::kTraining, 0, Recompute::kNone, Precision::kFp8);
  EXPECT_EQ(total_bytes(model.memory()), total_bytes(plan));
  EXPECT_GT(total_bytes(plan), total_bytes(Gpt::memory_plan(ctx, c, 2, Gpt::Mode::kTraining)));
}

TEST(Fp8Passes, SizesThatDoNotFitAreNamed) {
  GptConfig c = config_of(false);
  EXPECT_NO_THROW(validate_fp8(c, 64));
  test::expect_error([&] { validate_fp8(c, 33); }, {"train.precision fp8", "model.sequence_length", "33"});
  c.vocab_padding = 8;
  test::expect_error([&] { validate_fp8(c, 64); }, {"train.precision fp8", "model.vocab_padding", "8"});
  c = config_of(false), c.n_embd = 24;
  test::expect_error([&] { validate_fp8(c, 64); }, {"train.precision fp8", "model.n_embd", "24"});
}

}  // namespace
}  // namespace scfa

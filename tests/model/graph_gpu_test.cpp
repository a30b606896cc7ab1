// Training passes that are launched as CUDA graphs.
#include <gtest/gtest.h>

#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"

namespace scfa {
namespace {

using test::OwnedBatch;

struct Case {
  const char* name;
  std::vector<HeadPatterns> attention;
  Recompute recompute = Recompute::kNone;
  Precision precision = Precision::kDefault;
  bool documents = false;
};

std::vector<Case> cases() {
  AttentionPattern dense, hash, balanced, drop, window, blocks, reformer;
  hash.pattern = "hash", hash.buckets = 4;
  balanced.pattern = "hash", balanced.buckets = 4, balanced.rounds = 2, balanced.bias_rate = 0.1, balanced.near = 9;
  drop.pattern = "drop";
  window.window = 9, window.heads = 1;
  blocks.pattern = "blocks", blocks.block = 16;
  reformer.pattern = "reformer", reformer.buckets = 4;
  return {{"dense", {{dense}}, Recompute::kNone, Precision::kDefault, true},
          {"hash", {{hash}}, Recompute::kNorms},
          {"drop_in_fp8", {{drop}}, Recompute::kNone, Precision::kFp8},
          {"mixture", {{window, balanced}, {hash}}, Recompute::kBlock},
          {"blocks", {{blocks}}, Recompute::kGelu},
          {"reformer", {{reformer}}}};
}

class GraphGpu : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    test::skip_without_gpu();
    if (!gpu::can_capture()) GTEST_SKIP() << "launches wait: SCFA_SYNC is set";
    if (!IsSkipped() && !HasFailure() && GetParam().precision == Precision::kFp8 && gpu::properties().compute < 89)
      GTEST_SKIP() << "no 8-bit floating point";
  }
};

// Draws that differ from step to step, a batch of which fewer rows count, evaluation in between.
TEST_P(GraphGpu, ChangesNoBit) {
  const Case& c = GetParam();
  GptConfig config = test::small_config();
  config.n_embd = 128, config.sequence_length = 64, config.shared_qk = true, config.positions = "rotary";
  config.attention = c.attention;
  config.documents = c.documents, config.end_of_text = 3;
  struct Record {
    std::vector<double> losses;
    std::vector<std::vector<float>> gradients;
    std::vector<double> loads;
  };
  const auto run = [&](bool graphs) {
    Context ctx(Device::kGpu);
    ParameterStore store(ctx, config, {.training = true});
    Gpt model(store, config, 2, 1, Gpt::Mode::kTraining, 0, c.recompute, c.precision);
    store.init(1);
    test::fill_large(model, 4.0f);
    model.use_graphs(graphs);
    Feeder feeder(ctx, 2, config.sequence_length);
    Record record;
    for (uint32_t step = 0; step < 14; ++step) {
      model.zero_gradients();
      const OwnedBatch owned(config, 2, 4 + step);
      Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, step, step == 6 ? 1 : 0);
      batch.gradient_scale = 1.0f / 128;
      model.forward_backward(batch);
      const LossSums sums = model.take_losses();
      EXPECT_EQ(sums.tokens, step == 6 ? 64 : 128);
      record.losses.push_back(sums.loss);
      std::vector<float> gradients(static_cast<size_t>(store.gradients().numel()));
      ctx.copy(Tensor(gradients.data(), DType::kF32, Device::kCpu, {store.gradients().numel()}), store.gradients());
      record.gradients.push_back(std::move(gradients));
      if (step == 4) {
        record.losses.push_back(
            test::run(model, feeder.put(owned.ids, owned.targets, owned.samples, kEvaluationStep), false).loss);
        feeder.put(owned.ids, owned.targets, owned.samples, step);  // the next batch is where the one before it was
      }
    }
    if (const Tensor loads = store.bucket_loads(); loads) {
      record.loads.resize(static_cast<size_t>(loads.numel()));
      ctx.copy(Tensor(record.loads.data(), DType::kF64, Device::kCpu, {loads.numel()}), loads);
    }
    ctx.synchronize();
    EXPECT_EQ(model.graph_launches() >= 6, graphs) << model.graph_launches();
    return record;
  };
  const Record want = run(false), got = run(true);
  EXPECT_EQ(got.losses, want.losses);
  for (size_t i = 0; i < want.gradients.size(); ++i) EXPECT_TRUE(got.gradients[i] == want.gradients[i]) << "step " << i;
  EXPECT_EQ(got.loads, want.loads);
  EXPECT_NE(want.losses[0], want.losses[1]);
}

INSTANTIATE_TEST_SUITE_P(Patterns, GraphGpu, testing::ValuesIn(cases()),
                         [](const auto& row) { return std::string(row.param.name); });

class GraphsGpu : public test::GpuTest {};

// Patterns of another stage are other work.
TEST_F(GraphsGpu, EndWithTheStage) {
  Context ctx(Device::kGpu);
  GptConfig config = test::small_config("hash");
  config.n_embd = 128, config.sequence_length = 64;
  config.schedule = {{0.0, config.attention}, {0.5, {HeadPatterns(1)}}};
  const auto run = [&](bool graphs) {
    ParameterStore store(ctx, config, {.training = true});
    Gpt model(store, config, 2, 1, Gpt::Mode::kTraining);
    store.init(1);
    model.use_graphs(graphs);
    Feeder feeder(ctx, 2, config.sequence_length);
    std::vector<double> losses;
    for (uint32_t step = 0; step < 10; ++step) {
      model.set_stage(step / 5);
      const OwnedBatch owned(config, 2, 4);
      Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, step);
      batch.gradient_scale = 1.0f / 128;
      model.forward_backward(batch);
      losses.push_back(model.take_losses().loss);
    }
    EXPECT_EQ(model.graph_launches() >= 4, graphs && gpu::can_capture());
    return losses;
  };
  const std::vector<double> want = run(false);
  EXPECT_EQ(run(true), want);
  EXPECT_NE(want[4], want[5]);
  EXPECT_EQ(want[5], want[6]);  // dense draws nothing
}

// What fails during a capture is an error like any other, and the stream is as before.
TEST_F(GraphsGpu, AnErrorEndsTheCapture) {
  Context ctx(Device::kGpu);
  const Buffer memory(256, Device::kGpu);
  const Tensor x(memory.data(), DType::kF32, Device::kGpu, {64});
  EXPECT_THROW(gpu::capture(ctx.stream(), [&] { fail("half way"); }), Error);
  EXPECT_THROW(gpu::capture(ctx.stream(), [&] { ctx.synchronize(); }), Error);
  ctx.zero(x);
  const gpu::OwnedGraph graph = gpu::capture(ctx.stream(), [&] { ctx.zero(x); });
  gpu::fill(memory.data(), 1, 256, ctx.stream());
  gpu::launch(graph, ctx.stream());
  float first = 1;
  ctx.copy(Tensor(&first, DType::kF32, Device::kCpu, {1}), x.slice(0, 1));
  EXPECT_EQ(first, 0.0f);
}

}  // namespace
}  // namespace scfa

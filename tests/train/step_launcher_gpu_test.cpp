#include "train/step_launcher.h"

#include <gtest/gtest.h>

#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"
#include "train/step_outputs.h"

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
  balanced.probes = 2;
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

// A model on a GPU and what launches its steps.
struct LaunchedModel {
  LaunchedModel(Context& ctx, const GptConfig& config, bool graphs, Recompute recompute = Recompute::kNone,
                Precision precision = Precision::kDefault)
      : store(ctx, config, {.training = true}),
        model(store, config, 2, 1, Gpt::Mode::kTraining, 0, recompute, precision),
        optimizer(store, {.weight_decay = 0.1, .clip = 1.0}),
        launcher(model, optimizer, graphs),
        feeder(ctx, 2, config.sequence_length) {
    store.init(1);
  }
  ParameterStore store;
  Gpt model;
  Optimizer optimizer;
  StepLauncher launcher;
  Feeder feeder;
};

class StepLauncherGpu : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    test::skip_without_gpu();
    if (!gpu::can_capture()) GTEST_SKIP() << "launches wait: SCFA_SYNC is set";
    if (!IsSkipped() && !HasFailure() && GetParam().precision == Precision::kFp8 && gpu::properties().compute < 89)
      GTEST_SKIP() << "no 8-bit floating point";
  }
};

// Steps of several micro-batches, draws and learning rates that differ from step to step, a batch of which fewer rows
// count, evaluation in between.
TEST_P(StepLauncherGpu, GraphsChangeNoBit) {
  const Case& c = GetParam();
  GptConfig config = test::small_config();
  config.n_embd = 128, config.sequence_length = 64, config.shared_qk = true, config.positions = "rotary";
  config.attention = c.attention;
  config.documents = c.documents, config.end_of_text = 3;
  struct Record {
    std::vector<double> losses, norms;
    std::vector<std::vector<float>> params;  // after some steps
    std::vector<float> biases;
    double evaluated = 0;
  };
  const auto run = [&](bool graphs) {
    Context ctx(Device::kGpu);
    LaunchedModel its(ctx, config, graphs, c.recompute, c.precision);
    auto& [store, model, optimizer, launcher, feeder] = its;
    test::fill_large(model, 4.0f);
    StepOutputs outputs(ctx);
    Record record;
    const auto download = [&](const Tensor& from) {
      std::vector<float> values(static_cast<size_t>(from.numel()));
      ctx.copy(Tensor(values.data(), DType::kF32, Device::kCpu, {from.numel()}), from);
      return values;
    };
    const auto receive = [&] {
      const StepOutput output = outputs.receive();
      EXPECT_EQ(output.sums.tokens, record.losses.size() == 6 ? 2 * 128 + 64 : 3 * 128);
      record.losses.push_back(output.sums.loss), record.norms.push_back(output.grad_norm);
    };
    for (uint32_t step = 0; step < 14; ++step) {
      outputs.begin();
      optimizer.begin_step(1e-3 / (1 + step), step + 1);
      for (uint32_t micro = 0; micro < 3; ++micro) {
        const OwnedBatch owned(config, 2, 4 + 3 * step + micro);
        Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, step, step == 6 && micro == 1 ? 1 : 0);
        batch.gradient_scale = 1.0f / (3 * 128);
        launcher.launch(batch, micro == 0, micro == 2);
      }
      outputs.send(model.loss_sums(), optimizer.norm());
      if (outputs.in_flight() > 1) receive();
      if (step % 5 == 3) record.params.push_back(download(store.master_params()));  // which waits for the device
      if (step == 4) {
        receive();
        const OwnedBatch owned(config, 2, 99);
        record.evaluated =
            test::run(model, feeder.put(owned.ids, owned.targets, owned.samples, kEvaluationStep), false).loss;
        feeder.put(owned.ids, owned.targets, owned.samples, step);  // the next batch is where the one before it was
      }
    }
    receive();
    if (const Tensor biases = store.bucket_biases(); biases) record.biases = download(biases);
    EXPECT_EQ(launcher.graph_launches() >= 20, graphs) << launcher.graph_launches();
    return record;
  };
  const Record want = run(false), got = run(true);
  EXPECT_EQ(got.losses, want.losses);
  EXPECT_EQ(got.norms, want.norms);
  EXPECT_EQ(got.evaluated, want.evaluated);
  for (size_t i = 0; i < want.params.size(); ++i) EXPECT_TRUE(got.params[i] == want.params[i]) << i;
  EXPECT_EQ(got.biases, want.biases);
  EXPECT_EQ(want.losses.size(), 14u);
  EXPECT_NE(want.losses[0], want.losses[1]);
}

INSTANTIATE_TEST_SUITE_P(Patterns, StepLauncherGpu, testing::ValuesIn(cases()),
                         [](const auto& row) { return std::string(row.param.name); });

class GraphsGpu : public test::GpuTest {};

// Patterns of another stage are other work.
TEST_F(GraphsGpu, AreOfTheirStage) {
  Context ctx(Device::kGpu);
  GptConfig config = test::small_config("hash");
  config.n_embd = 128, config.sequence_length = 64;
  config.schedule = {{0.0, config.attention}, {0.5, {HeadPatterns(1)}}};
  const auto run = [&](bool graphs) {
    LaunchedModel its(ctx, config, graphs);
    Gpt& model = its.model;
    std::vector<double> losses;
    for (uint32_t step = 0; step < 10; ++step) {
      model.set_stage(step / 5);
      const OwnedBatch owned(config, 2, 4);
      Batch batch = its.feeder.put(owned.ids, owned.targets, owned.samples, step);
      batch.gradient_scale = 1.0f / 128;
      its.launcher.launch(batch, true, false);
      losses.push_back(model.take_losses().loss);
    }
    EXPECT_EQ(its.launcher.graph_launches() >= 4, graphs && gpu::can_capture());
    return losses;
  };
  const std::vector<double> want = run(false);
  EXPECT_EQ(run(true), want);
  EXPECT_NE(want[4], want[5]);
  EXPECT_EQ(want[5], want[6]);  // dense draws nothing
}

// Many others make graphs go, which may still run then.
TEST_F(GraphsGpu, AreMadeAnewWhereThereAreMany) {
  if (!gpu::can_capture()) GTEST_SKIP() << "launches wait: SCFA_SYNC is set";
  Context ctx(Device::kGpu);
  GptConfig config = test::small_config();
  config.n_embd = 128, config.sequence_length = 64;
  LaunchedModel its(ctx, config, true);
  Gpt& model = its.model;
  const StepLauncher& launcher = its.launcher;
  const OwnedBatch owned(config, 2, 4);
  const auto launch = [&](int times, float scale) {
    for (int i = 0; i < times; ++i) {
      Batch batch = its.feeder.put(owned.ids, owned.targets, owned.samples, 0);
      batch.gradient_scale = scale;
      its.launcher.launch(batch, true, false);
    }
  };
  launch(6, 1.0f);  // two places: once op by op, then captured
  EXPECT_EQ(launcher.graph_launches(), 4);
  for (int i = 0; i < 30; ++i) launch(1, 2.0f + static_cast<float>(i));
  EXPECT_EQ(launcher.graph_launches(), 4);
  launch(6, 1.0f);
  EXPECT_EQ(launcher.graph_launches(), 8);
  const LossSums sums = model.take_losses();
  EXPECT_EQ(sums.tokens, 42 * 128);
  launch(1, 1.0f);
  EXPECT_NEAR(model.take_losses().loss, sums.loss / 42, 1e-9 * sums.loss);
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

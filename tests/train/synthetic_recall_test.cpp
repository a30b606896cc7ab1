// Training on synthetic sequences, and what a model recalls by distance.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/ignored_target.h"
#include "data/synthetic.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"
#include "support/tiny_run.h"
#include "train/checkpoint_evaluation.h"
#include "train/feeder.h"
#include "train/generate.h"

namespace scfa {
namespace {

using test::expect_error;

class SyntheticRecall : public testing::Test {
 protected:
  void write(SyntheticTask task, int64_t length, int64_t pairs, int64_t vocabulary) {
    SyntheticOptions o;
    o.task = task, o.length = length, o.pairs = pairs, o.vocabulary = vocabulary;
    o.sequences = 16000, o.val_sequences = 200;
    o.set.directory = folder_ / "set";
    write_synthetic_set(o);
    Config& c = config_;
    c.device = "cpu", c.name = "recall", c.runs = folder_ / "runs", c.data.directory = o.set.directory;
    c.model.n_layer = 2, c.model.n_head = 2, c.model.n_embd = 64, c.model.sequence_length = length;
    c.model.bias = false;
    c.train.batch_size = 32, c.train.micro_batch_size = 16;
    c.optimizer.clip = 1;
    c.schedule.schedule = "cosine", c.schedule.lr = 3e-3, c.schedule.warmup = 0.1;
    c.eval.every = 0, c.eval.windows = 1000, c.checkpoint.every = 0;
  }

  TrainResult train_quietly(const TrainOptions& options = {}) {
    testing::internal::CaptureStdout();
    Console console;
    try {
      const TrainResult result = train(config_, options, console);
      testing::internal::GetCapturedStdout();
      return result;
    } catch (...) {
      testing::internal::GetCapturedStdout();
      throw;
    }
  }

  CheckpointEvaluation evaluate(const std::vector<std::pair<std::string, std::string>>& attention = {}) {
    return evaluate_checkpoint({.checkpoint = folder_ / "runs/recall", .overrides = attention, .device = "cpu"});
  }

  static double accuracy(const LossSums& sums) { return sums.correct / static_cast<double>(sums.tokens); }

  test::TempDir folder_;
  Config config_;
};

// What stands behind the trigger is recalled from anywhere, but not from beyond a window.
TEST_F(SyntheticRecall, InductionIsLearned) {
  write(SyntheticTask::kInduction, 48, 1, 32);
  config_.train.steps = 250;
  const TrainResult result = train_quietly();
  EXPECT_LT(*result.validation_loss, 0.1);  // a guess costs log 10
  const CheckpointEvaluation dense = evaluate();
  EXPECT_EQ(dense.losses.sums.tokens, 199);  // windows end with a token of the next sequence
  EXPECT_NEAR(dense.losses.sums.loss / 199, *result.validation_loss, 1e-6);
  int64_t answers = 0;
  for (const PositionRange& range : dense.distances) answers += range.sums.tokens;
  EXPECT_EQ(answers, 199);
  EXPECT_GE(dense.distances.front().first, 2);  // the value is between
  EXPECT_GT(accuracy(dense.losses.sums), 0.97);
  for (const PositionRange& range : evaluate({{"attention.window", "8"}}).distances) {
    if (range.first < 16) continue;
    EXPECT_LT(accuracy(range.sums), 0.6) << range.first;
  }
}

// Two keys: to know which values there are is half of it.
TEST_F(SyntheticRecall, MqarIsLearned) {
  if (test::kSanitized) GTEST_SKIP() << "takes minutes, of code that InductionIsLearned runs too";
  write(SyntheticTask::kMqar, 32, 2, 32);
  config_.train.steps = 700, config_.train.batch_size = config_.train.micro_batch_size = 64;
  EXPECT_LT(*train_quietly().validation_loss, 0.6);
  EXPECT_GT(accuracy(evaluate().losses.sums), 0.65);
}

// The loss is that of what counts, whatever the cut into micro-batches.
TEST_F(SyntheticRecall, MicroBatchesChangeNothing) {
  write(SyntheticTask::kMqar, 32, 2, 32);
  config_.train.steps = 5;
  const double whole = *train_quietly().validation_loss;
  config_.train.micro_batch_size = 4;
  EXPECT_NEAR(*train_quietly({.overwrite = true}).validation_loss, whole, 1e-4);
}

// The gradient is that of the mean over what counts.
TEST_F(SyntheticRecall, GradientsAreOfTheMeanOverAnswers) {
  write(SyntheticTask::kMqar, 32, 2, 32);
  config_.train.steps = 1, config_.train.batch_size = 32, config_.train.micro_batch_size = 8;
  train_quietly();
  double recorded = 0;
  std::ifstream file(folder_ / "runs/recall/metrics.jsonl");
  for (std::string line; std::getline(file, line);)
    if (const auto record = nlohmann::json::parse(line); record["type"] == "step") recorded = record["grad_norm"];

  Context ctx;
  GptConfig model = config_.model;
  model.vocab_size = 32;
  const TokenSet set(config_.data.directory, Split::kTrain);
  ParameterStore store(ctx, model, {.training = true});
  Gpt gpt(store, model, 32, static_cast<uint64_t>(config_.seed), Gpt::Mode::kTraining);
  store.init(static_cast<uint64_t>(config_.seed));
  gpt.zero_gradients();
  Loader loader(set, {.seed = static_cast<uint64_t>(config_.seed), .sequence_length = 32, .batch = 32});
  const TokenBatch& tokens = loader.batch(0, 0);
  Feeder feeder(ctx, 32, 32);
  Batch batch = feeder.put(tokens.inputs, tokens.targets, tokens.samples, 0);
  batch.gradient_scale = 1.0f / 64;
  gpt.forward(batch, true);
  gpt.backward(batch);
  EXPECT_EQ(gpt.take_losses().tokens, 32 * 2);
  double square = 0;
  for (int64_t i = 0; i < store.gradients().numel(); ++i) {
    const double g = store.gradients().as<float>()[i];
    square += g * g;
  }
  EXPECT_NEAR(recorded, std::sqrt(square), 1e-4 * recorded);
  EXPECT_GT(recorded, 0.01);
}

// Of the rows that count, what of them counts; on both devices.
class FeederOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { test::skip_without(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Devices, FeederOn, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

TEST_P(FeederOn, CountsWhatCounts) {
  Context ctx(GetParam());
  GptConfig c;
  c.n_layer = 1, c.n_head = 1, c.n_embd = 64, c.sequence_length = 4, c.vocab_size = 9;
  ParameterStore store(ctx, c, {});
  Gpt gpt(store, c, 3, 1, Gpt::Mode::kEvaluation);
  store.init(1);
  Feeder feeder(ctx, 3, 4);
  const std::vector<int32_t> ids(12, 1);
  std::vector<int32_t> targets(12, 2);
  gpt.forward(feeder.put(ids, targets, {0, 1, 2}, 0, 2), false);
  EXPECT_EQ(gpt.take_losses().tokens, 8);
  gpt.forward(feeder.put(ids, targets, {0, 1, 2}, 0), false);
  EXPECT_EQ(gpt.take_losses().tokens, 12);
  targets[1] = targets[9] = kIgnoredTarget;
  gpt.forward(feeder.put(ids, targets, {0, 1, 2}, 0), false);
  EXPECT_EQ(gpt.take_losses().tokens, 10);
  gpt.forward(feeder.put(ids, targets, {0, 1, 2}, 0, 2), false);
  EXPECT_EQ(gpt.take_losses().tokens, 7);
}

TEST_F(SyntheticRecall, WhatDoesNotFitIsNamed) {
  write(SyntheticTask::kNeedle, 64, 2, 32);
  config_.train.steps = 1;
  config_.model.sequence_length = 32;
  expect_error([&] { train_quietly(); }, {"model.sequence_length", "32", "64"});
  config_.model.sequence_length = 64, config_.data.order = "random";
  expect_error([&] { train_quietly(); }, {"data.order", "epoch"});
  config_.data.order = "epoch";
  train_quietly();
  expect_error(
      [&] { evaluate_checkpoint({.checkpoint = folder_ / "runs/recall", .short_context = 16, .device = "cpu"}); },
      {"--short-context", "synthetic"});
  SyntheticOptions other;
  other.length = 64, other.vocabulary = 50, other.sequences = other.val_sequences = 4;
  other.set.directory = folder_ / "other";
  write_synthetic_set(other);
  expect_error(
      [&] { evaluate_checkpoint({.checkpoint = folder_ / "runs/recall", .data = folder_ / "other", .device = "cpu"}); },
      {"runs/recall", "32 entries", "other has 50"});
}

}  // namespace
}  // namespace scfa

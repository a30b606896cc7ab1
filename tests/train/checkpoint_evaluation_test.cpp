// ./evaluate and what it computes: the loss of training's evaluation, by position, with other patterns, in short
// contexts; its output; and what goes wrong.
#include "train/checkpoint_evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "core/rng.h"
#include "support/expect_error.h"
#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

using test::execute;
using test::expect_error;
using test::expect_one_line;
using test::Outcome;

// One run for all tests of this file: 2 layers of 2 heads that hash into 4 buckets, context 64, tokens are bytes.
class Evaluate : public test::TinyRunSuite {
 protected:
  static CheckpointEvaluation evaluate(CheckpointEvaluationOptions options) {
    options.checkpoint = run();
    options.device = "cpu";
    return evaluate_checkpoint(options);
  }
  static Outcome program(std::initializer_list<std::string> more) {
    std::vector<std::string> words{"evaluate", "--checkpoint", run(), "--device=cpu"};
    words.insert(words.end(), more);
    return execute(words);
  }
};

TEST_F(Evaluate, TheLossIsThatOfTraining) {
  const CheckpointEvaluation found = evaluate({});
  EXPECT_EQ(found.losses.sums.tokens, 7 * 64);  // no more windows than the config's
  const CheckpointState state = find_checkpoint(run());
  EXPECT_EQ(found.checkpoint, state.path);
  EXPECT_EQ(found.step, 12);
  EXPECT_EQ(found.losses.sums.loss / (7 * 64), state.validation_loss);
  EXPECT_NEAR(evaluate({.batch = 1}).losses.sums.loss, found.losses.sums.loss, 1e-3);
  const CheckpointEvaluation all = evaluate({.windows = 0});
  EXPECT_EQ(all.windows, all.available);
  EXPECT_GT(all.available, 7);
  const CheckpointEvaluation of_train = evaluate({.split = Split::kTrain});
  EXPECT_NE(of_train.losses.sums.loss, found.losses.sums.loss);
}

TEST_F(Evaluate, PositionsTogetherAreTheWhole) {
  const CheckpointEvaluation found = evaluate({.windows = 5});
  ASSERT_EQ(found.positions.size(), 1u);  // of 64 positions
  EXPECT_EQ(found.positions[0].last, 63);
  EXPECT_EQ(found.positions[0].sums.tokens, found.losses.sums.tokens);
  EXPECT_NEAR(found.positions[0].sums.loss, found.losses.sums.loss, 1e-9);
  EXPECT_EQ(found.positions[0].sums.correct, found.losses.sums.correct);
}

TEST_F(Evaluate, RangesOfPositionsDouble) {
  test::TinyRun tiny;
  Config config = tiny.config();
  config.model.sequence_length = 200;
  config.train.steps = 2;
  config.eval.windows = 2;
  config.train.batch_size = config.train.micro_batch_size = 2;
  tiny.run(config);
  const CheckpointEvaluation found =
      evaluate_checkpoint({.checkpoint = tiny.path(""), .short_context = 40, .device = "cpu"});
  std::vector<int64_t> lasts;
  LossSums sum;
  for (const PositionRange& range : found.positions) {
    EXPECT_EQ(range.first, lasts.empty() ? 0 : lasts.back() + 1);
    EXPECT_EQ(range.sums.tokens, (range.last - range.first + 1) * found.windows);
    lasts.push_back(range.last);
    sum += range.sums;
  }
  EXPECT_EQ(lasts, (std::vector<int64_t>{63, 127, 199}));
  EXPECT_NEAR(sum.loss, found.losses.sums.loss, 1e-9);
  EXPECT_EQ(sum.tokens, found.losses.sums.tokens);
  lasts.clear();
  for (const ShortContextRange& range : found.short_context) {
    EXPECT_EQ(range.first, lasts.empty() ? 20 : lasts.back() + 1);
    EXPECT_EQ(range.full.tokens, range.truncated.tokens);
    lasts.push_back(range.last);
  }
  EXPECT_EQ(lasts, (std::vector<int64_t>{63, 127, 199}));
}

TEST_F(Evaluate, APatternInPlaceOfTheTrainedOne) {
  const CheckpointEvaluation trained = evaluate({}), dense = evaluate({.overrides = {{"attention.pattern", "dense"}}});
  EXPECT_NE(dense.losses.sums.loss, trained.losses.sums.loss);
  EXPECT_FALSE(is_dense_everywhere(trained.losses));
  EXPECT_TRUE(is_dense_everywhere(dense.losses));
  EXPECT_EQ(dense.trained.model.attention[0][0].pattern, "hash");
  EXPECT_EQ(evaluate({.overrides = {{"attention", R"({"pattern": "hash", "buckets": 4})"}}}).losses.sums.loss,
            trained.losses.sums.loss);
  EXPECT_EQ(evaluate({.overrides = {{"attention.pattern", "dense"}, {"attention.pattern", "hash"}}}).losses.sums.loss,
            trained.losses.sums.loss);
}

// A run that goes on from the checkpoint with these settings begins with this loss.
TEST_F(Evaluate, AnotherLengthAndBaseOfRotaryPositions) {
  test::TinyRun tiny;
  Config config = tiny.config();
  config.model.positions = "rotary";
  tiny.run(config);
  Config next = config;
  next.name = "next";
  next.model.sequence_length = 128;
  next.model.rotary_theta = 1e6;
  next.train.init_from = tiny.path("");
  next.train.steps = 1;
  next.train.batch_size = next.train.micro_batch_size = 2;
  next.schedule.lr = 0;
  next.eval.windows = 3;
  const std::string checkpoint = tiny.path("");
  const CheckpointEvaluation found =
      evaluate_checkpoint({.checkpoint = checkpoint,
                           .windows = 3,
                           .overrides = {{"model.sequence_length", "128"}, {"model.rotary_theta", "1e6"}},
                           .device = "cpu"});
  EXPECT_EQ(found.losses.sums.tokens, 3 * 128);
  EXPECT_EQ(found.positions.back().last, 127);
  EXPECT_EQ(found.losses.sums.loss / (3 * 128), tiny.run(next).validation_loss);
  const auto text = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"evaluate", "--checkpoint", checkpoint, "--device=cpu"};
    words.insert(words.end(), more.begin(), more.end());
    return execute(words).out;
  };
  EXPECT_NE(text({"--model.sequence_length=128", "--model.rotary_theta=1e6"})
                .find("\nlength      128 tokens, rotary_theta 1000000; trained with 64 tokens, 10000\n"),
            std::string::npos);
  EXPECT_EQ(text({}).find("\nlength "), std::string::npos);
}

// With the patterns of the last step before it, and the biases that its buckets had then.
TEST_F(Evaluate, ACheckpointHasThePatternsOfItsStep) {
  test::TinyRun tiny;
  Config config = tiny.config();
  config.model.attention[0][0].bias_rate = 0.1;
  config.model.schedule = {{0, config.model.attention}, {0.75, {HeadPatterns(1)}}};
  config.eval.every = 3;
  config.checkpoint.every = 3;
  tiny.run(config);
  const auto of = [](const std::string& checkpoint, const std::string& attention = "") {
    CheckpointEvaluationOptions options{.checkpoint = checkpoint, .device = "cpu"};
    if (!attention.empty()) options.overrides.emplace_back("attention", attention);
    return evaluate_checkpoint(options);
  };
  for (const int64_t step : {6, 9, 12}) {
    SCOPED_TRACE(step);
    const std::string checkpoint = tiny.path(concat("checkpoint-", step < 10 ? "0000000" : "000000", step));
    const CheckpointEvaluation found = of(checkpoint);
    EXPECT_EQ(found.config.model.attention[0][0].pattern, step == 12 ? "dense" : "hash");
    EXPECT_EQ(found.trained.model.attention[0][0].pattern, step == 12 ? "dense" : "hash");
    EXPECT_EQ(found.losses.sums.loss / (7 * 64), find_checkpoint(checkpoint).validation_loss);
    EXPECT_NE(of(checkpoint, R"({"pattern": "hash", "buckets": 4})").losses.sums.loss, found.losses.sums.loss);
  }
  expect_error([&] { of(tiny.path(""), R"({"schedule": [{"from": 0, "attention": {}}]})"); },
               {"--attention", "not a schedule"});
  // Biases that nothing has learned.
  expect_error([&] { of(tiny.path(""), R"({"pattern": "hash", "buckets": 8, "bias_rate": 0.1})"); },
               {"model.safetensors", "no tensor", "bucket_bias", "buckets_8"});
}

TEST_F(Evaluate, RecallOfDenseAttentionIsOneAndOfOthersLess) {
  const CheckpointEvaluation hash = evaluate({.recall = true}),
                             dense = evaluate({.overrides = {{"attention.pattern", "dense"}}, .recall = true}),
                             without_self = evaluate({.overrides = {{"attention.pattern", "dense"},  //
                                                                    {"attention.attend_self", "false"}},
                                                      .recall = true});
  ASSERT_EQ(hash.recall.size(), 2u);
  double recall = 0, pairs = 0;
  for (size_t l = 0; l < 2; ++l)
    for (size_t h = 0; h < 2; ++h) {
      EXPECT_EQ(dense.recall[l][h].recall, static_cast<double>(dense.recall[l][h].queries));
      EXPECT_EQ(dense.recall[l][h].queries, 7 * 64);
      EXPECT_EQ(hash.recall[l][h].queries, 7 * 63);  // the first token sees nobody
      EXPECT_GT(hash.recall[l][h].recall, 0);
      recall += hash.recall[l][h].recall, pairs += hash.recall[l][h].pairs;  // of a head, all may be in one bucket
      EXPECT_EQ(hash.recall[l][h].dense_pairs, 7 * 63 * 64 / 2);
    }
  EXPECT_LT(recall, 0.99 * 4 * 7 * 63);
  EXPECT_LT(pairs, 0.99 * 4 * 7 * 63 * 64 / 2);
  // The weights hash, and see themselves no more under dense attention than they did.
  EXPECT_EQ(hash.dense->loss, without_self.losses.sums.loss);
  EXPECT_EQ(hash.dense->loss, dense.dense->loss);
  EXPECT_EQ(hash.losses.sums.loss, evaluate({}).losses.sums.loss);
}

TEST_F(Evaluate, AShortContextAsLongAsTheWholeOneIsTheSame) {
  const CheckpointEvaluation found = evaluate({.short_context = 64});
  ASSERT_EQ(found.short_context.size(), 1u);
  const ShortContextRange all = found.short_context_total();
  EXPECT_EQ(all.first, 32);
  EXPECT_EQ(all.last, 63);
  EXPECT_EQ(all.full.tokens, 7 * 32);
  EXPECT_EQ(all.truncated.tokens, 7 * 32);
  EXPECT_EQ(all.truncated.loss, all.full.loss);
  EXPECT_EQ(all.truncated.correct, all.full.correct);
}

// Token by token: the loss at the end of a window that begins elsewhere is that of a set that holds this window only.
TEST_F(Evaluate, AShortContextForgetsWhatLiesBefore) {
  const int64_t N = 16;
  const CheckpointEvaluation found = evaluate({.windows = 1, .batch = 1, .short_context = N});
  const CheckpointState state = find_checkpoint(run());
  Context ctx;
  ParameterStore store(ctx, state.config.model, {});
  load_checkpoint(state.path, store);
  Gpt model(store, state.config.model, 1, static_cast<uint64_t>(state.config.seed), Gpt::Mode::kEvaluation, N);
  const TokenSet set(state.config.data.directory, Split::kVal);
  LossSums want;
  const uint32_t sample = 0;
  for (int64_t start = 0; start + N <= 64; start += N / 2) {
    std::vector<int32_t> ids(N), targets(N);
    read_row(set, start, N, ids.data(), targets.data());
    Batch batch;
    batch.ids = ConstTensor(ids.data(), DType::kI32, Device::kCpu, {1, N});
    batch.targets = ConstTensor(targets.data(), DType::kI32, Device::kCpu, {1, N});
    batch.samples = ConstTensor(&sample, DType::kI32, Device::kCpu, {1});
    batch.step = kEvaluationStep;
    model.forward(batch, false);
    for (int64_t t = N / 2; t < N; ++t) {
      want.loss += static_cast<double>(model.activations().losses.as<float>()[t]);
      want.correct += static_cast<double>(model.activations().correct.as<float>()[t]);
      ++want.tokens;
    }
  }
  const ShortContextRange all = found.short_context_total();
  EXPECT_EQ(all.truncated.tokens, want.tokens);
  EXPECT_EQ(all.truncated.tokens, 64 - N / 2);
  EXPECT_NEAR(all.truncated.loss, want.loss, 1e-4);
  EXPECT_EQ(all.truncated.correct, want.correct);
  EXPECT_NE(all.truncated.loss, all.full.loss);
}

TEST_F(Evaluate, ProgressGoesUpToTheEndWithTheTimeLeft) {
  std::vector<double> shares;
  std::string text;
  evaluate({.windows = 7,
            .batch = 2,
            .recall = true,
            .short_context = 32,
            .progress = [&](double share, const std::string& what) { shares.push_back(share), text += what + '\n'; }});
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.front(), 0);
  EXPECT_LT(shares.back(), 1);
  for (const char* part : {"evaluating", "measuring recall", "evaluating short contexts", " left\n"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST_F(Evaluate, ThePrintedTablesAndTheFile) {
  const test::TempDir folder;
  const std::string csv = folder.put("table.csv", "from before");
  const Outcome outcome = program({"--recall", "--short-context", "32", "--csv", csv, "--attention.buckets=2"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  for (const char* part : {"hash with 4 buckets", "hash with 2 buckets", "val split, 7 of", "perplexity", "accuracy",
                           "short loss", "recall", "x pairs"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << outcome.out;
  const std::string table = test::read_text(csv);
  EXPECT_EQ(table.find("table,layer,head,first,last,tokens,loss,"), 0u) << table;
  for (const char* row : {"\ntotal,,,0,63,448,", "\npositions,,,0,63,448,", "\nshort_context,,,16,63,336,",
                          "\ndense,,,0,63,448,", "\nrecall,0,0,,,441,", "\nrecall,1,1,,,441,"})
    EXPECT_NE(table.find(row), std::string::npos) << row << table;
  size_t begin = 0;
  for (size_t end = 0; (end = table.find('\n', begin)) != std::string::npos; begin = end + 1)
    EXPECT_EQ(std::count(table.begin() + static_cast<int64_t>(begin), table.begin() + static_cast<int64_t>(end), ','),
              11);
  EXPECT_EQ(program({"--recall", "--short-context", "32", "--csv", csv, "--attention.buckets=2"}).out, outcome.out);
  EXPECT_EQ(test::read_text(csv), table);
}

TEST_F(Evaluate, WhatDoesNotGoTogetherIsNamed) {
  expect_one_line(execute({"evaluate"}), "evaluate: ", "--checkpoint");
  expect_one_line(execute({"evaluate", "--checkpoint", "nowhere"}), "evaluate: nowhere",
                  "there is no such run or checkpoint; ");
  expect_one_line(program({"--data", "nowhere"}), "evaluate: nowhere", "no prepared set");
  expect_one_line(program({"--data="}), "evaluate: ", "--data=: names no folder");
  expect_one_line(program({"--csv="}), "evaluate: ", "--csv=: names no file");
  expect_one_line(program({"--csv", "/dev/full"}), "evaluate: ", "not a regular file");
  expect_one_line(program({"--split", "test"}), "evaluate: ", "--split: must be val or train");
  expect_one_line(program({"--device", "tpu"}), "evaluate: ", "--device: must be");
  expect_one_line(program({"--attention.pattern", "spiral"}), "evaluate: ", "--attention.pattern: must be one of");
  expect_one_line(program({"--attention.bucket", "3"}), "evaluate: ", "did you mean \"attention.buckets\"");
  expect_one_line(program({"--attention", R"({"mixture": [{"heads": 3}]})"}), "evaluate: ", "model.n_head = 2");
  expect_one_line(program({"--attention", "[{}, {}, {}]"}), "evaluate: ", "model.n_layer = 2");
  expect_one_line(program({"--model.n_head", "4"}), "evaluate: ", "is not an option");
  for (const char* option : {"--model.sequence_length=128", "--model.rotary_theta=1e6"})
    expect_one_line(program({option}), "evaluate: ", "has learned positions, 64 of them; only rotary ones");
  for (const char* value : {"1", "7", "66", "x"})
    expect_one_line(program({"--short-context", value}), "evaluate: ", "--short-context: must be ");
  for (const char* option : {"--windows=-1", "--windows=x", "--batch=0", "--batch=1.5"})
    expect_one_line(program({option}), "evaluate: ", ": must be a whole number");
  expect_one_line(program({"--batch=1000000000"}), "evaluate: ", "--batch: 1000000000 sequences of 64 tokens: needs");
}

TEST_F(Evaluate, ASetThatDoesNotFitIsNamed) {
  const test::TempDir folder;
  test::write_text(folder / "text.txt", "Too short.\n");
  PrepareOptions options;
  options.input.inputs = {folder / "text.txt"};
  options.set.directory = folder / "short";
  options.set.val_fraction = 0.5;
  options.tokenizer = "bytes";
  options.threads = 1;
  prepare(options);
  expect_error([&] { evaluate({.data = folder / "short"}); },
               {"short: its val split", "shorter than one window of the model, 65"});
  options.set.directory = folder / "gpt2";
  options.tokenizer = "gpt2";
  prepare(options);
  expect_error([&] { evaluate({.data = folder / "gpt2"}); }, {"tokens of bytes", "gpt2 holds tokens of gpt2"});
}

TEST_F(Evaluate, ABrokenModelIsAnError) {
  const CheckpointState state = find_checkpoint(run());
  const test::TempDir folder;
  Context ctx;
  ParameterStore store(ctx, state.config.model, {.training = true});
  load_checkpoint(state.path, store);
  std::fill_n(store.master_params().as<float>(), store.master_params().numel(), std::nanf(""));
  HostState values(store, true);
  values.download();
  const std::string path = save_checkpoint(folder / "run", state, store.table(), values);
  expect_error([&] { evaluate_checkpoint({.checkpoint = path, .device = "cpu"}); },
               {path.c_str(), "its loss is not finite, first in: parameter wte.weight"});
}

TEST_F(Evaluate, ASignalEndsItAndNothingIsWritten) {
  const test::TempDir folder;
  const std::string csv = folder / "table.csv";
  const Outcome outcome = execute({"evaluate", "--checkpoint", run(), "--device=cpu", "--split=train", "--windows=0",
                                   "--batch=1", "--short-context=2", "--csv", csv},
                                  [&](pid_t pid) {
                                    test::wait_until([&] { return folder.entries() > 0; });
                                    ::kill(pid, SIGTERM);
                                  });
  EXPECT_TRUE(outcome.code == 128 + SIGTERM) << outcome.code << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(folder.entries(), 0u);
}

}  // namespace
}  // namespace scfa

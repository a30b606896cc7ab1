// Resuming is bit-exact: a run taken up again from any checkpoint gives the losses and parameters of one never stopped.
#include <gtest/gtest.h>

#include <filesystem>

#include "data/loader.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/tiny_run.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_text;
using test::TinyRun;

class Resume : public testing::TestWithParam<std::tuple<const char*, const char*, Device>> {
 protected:
  void SetUp() override { test::skip_without(std::get<2>(GetParam())); }
};

TEST_P(Resume, EqualsTheRunThatWasNeverStopped) {
  const auto [pattern, order, device] = GetParam();
  TinyRun tiny;
  Config config = tiny.config(pattern, name_of(device));
  config.data.order = order;
  const TrainResult whole = tiny.run(config);
  EXPECT_EQ(whole.step, 12);
  const std::string parameters = read_text(tiny.path("checkpoint-00000012/model.safetensors"));
  const std::string moments = read_text(tiny.path("checkpoint-00000012/optimizer.safetensors"));
  const std::vector<std::string> losses = tiny.records(1);
  ASSERT_EQ(losses.size(), 12u);
  // The second epoch begins between the two checkpoints that are resumed from, and windows cross shards of 501 tokens.
  const int64_t windows = count_windows(TokenSet(config.data.directory, Split::kTrain), 64);
  ASSERT_TRUE(windows > 5 * 12 && windows < 12 * 12) << windows;
  for (const int64_t from : {10, 5}) {
    fs::remove_all(tiny.path("checkpoint-00000012"));
    if (from == 5) fs::remove_all(tiny.path("checkpoint-00000010"));
    fs::remove(tiny.path("metrics.jsonl"));
    const TrainResult resumed = tiny.run(config, {.resume = true});
    EXPECT_EQ(resumed.step, 12);
    EXPECT_EQ(resumed.validation_loss, whole.validation_loss);
    EXPECT_EQ(tiny.records(1), std::vector<std::string>(losses.begin() + from, losses.end()));
    EXPECT_TRUE(read_text(tiny.path("checkpoint-00000012/model.safetensors")) == parameters) << "from " << from;
    EXPECT_TRUE(read_text(tiny.path("checkpoint-00000012/optimizer.safetensors")) == moments) << "from " << from;
  }
}

INSTANTIATE_TEST_SUITE_P(Train, Resume,
                         testing::Combine(testing::Values("dense", "hash", "drop"), testing::Values("epoch", "random"),
                                          testing::Values(Device::kCpu, Device::kGpu)),
                         [](const auto& row) {
                           return concat(std::get<0>(row.param), "_", std::get<1>(row.param), "_",
                                         name_of(std::get<2>(row.param)));
                         });

// What is learned beside the parameters is saved with them, and patterns change where they would have.
TEST_P(Resume, WithBiasesOfBucketsAndASchedule) {
  const auto [pattern, order, device] = GetParam();
  if (std::string(pattern) != "hash" || std::string(order) != "epoch") GTEST_SKIP() << "once will do";
  TinyRun tiny;
  Config config = tiny.config("hash", name_of(device));
  HeadPatterns biased = config.model.attention[0];
  biased[0].bias_rate = 0.1;
  config.model.schedule = {{0, {biased}}, {0.6, {HeadPatterns(1)}}, {0.75, {biased}}};  // steps 0, 7, 9
  config.model.attention = config.model.schedule[0].attention;
  const TrainResult whole = tiny.run(config);
  EXPECT_NE(tiny.out.find("from step 8 on attention is dense"), std::string::npos) << tiny.out;
  EXPECT_NE(tiny.out.find("from step 10 on attention is hash"), std::string::npos) << tiny.out;
  const std::string parameters = read_text(tiny.path("checkpoint-00000012/model.safetensors"));
  EXPECT_NE(parameters.find("h.1.attn.bucket_bias.heads_0_to_1.rounds_1.buckets_4"), std::string::npos);
  const std::vector<std::string> losses = tiny.records(1);
  for (const int64_t from : {10, 5}) {
    config.train.recompute = from == 10 ? "gelu" : "block";  // changes nothing
    fs::remove_all(tiny.path("checkpoint-00000012"));
    if (from == 5) fs::remove_all(tiny.path("checkpoint-00000010"));
    fs::remove(tiny.path("metrics.jsonl"));
    EXPECT_EQ(tiny.run(config, {.resume = true}).validation_loss, whole.validation_loss);
    EXPECT_EQ(tiny.records(1), std::vector<std::string>(losses.begin() + from, losses.end()));
    EXPECT_TRUE(read_text(tiny.path("checkpoint-00000012/model.safetensors")) == parameters) << "from " << from;
  }
}

class Checkpoint : public test::TinyRunTest {};

TEST_F(Checkpoint, HasFewerHeadsOfKeysAndValues) {
  config.model.shared_qk = false;
  config.model.n_head = 4;
  config.model.n_kv_head = 2;
  tiny.run(config);
  const std::string parameters = read_text(tiny.path("checkpoint-00000012/model.safetensors"));
  EXPECT_NE(parameters.find(R"("h.0.attn.c_attn.weight":{"dtype":"F32","shape":[32,16])"), std::string::npos);
  fs::remove_all(tiny.path("checkpoint-00000012"));
  Config other = config;
  other.model.n_kv_head = 4;
  expect_error([&] { tiny.run(other, {.resume = true}); }, {"model.n_kv_head", "2", "4"});
  tiny.run(config, {.resume = true});
  EXPECT_TRUE(read_text(tiny.path("checkpoint-00000012/model.safetensors")) == parameters);
}
class ResumedRun : public test::TinyRunTest {};

TEST_F(Checkpoint, KnowsWhatEndsADocument) {
  config.model.documents = true;
  const TrainResult whole = tiny.run(config);
  EXPECT_NE(tiny.out.find("documents apart"), std::string::npos) << tiny.out;
  EXPECT_EQ(find_checkpoint(tiny.path("")).config.model.end_of_text, 256);  // of the tokenizer of bytes
  fs::remove_all(tiny.path("checkpoint-00000012"));
  const TrainResult resumed = tiny.run(config, {.resume = true});
  EXPECT_EQ(resumed.validation_loss, whole.validation_loss);
  config.model.documents = false;
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"model.documents", "true", "false"});
}

TEST_F(Checkpoint, ANewerOneThatIsNotWholeIsPassedOver) {
  tiny.run(config);
  const std::string newest = tiny.path("checkpoint-00000012/model.safetensors");
  test::flip_bit(newest, fs::file_size(newest) / 2);
  fs::resize_file(tiny.path("checkpoint-00000010/optimizer.safetensors"), 1000);
  fs::create_directories(tiny.path("checkpoint-00000099"));                 // a folder without files
  fs::create_directories(tiny.path("checkpoint-00000098.partial-abcdef"));  // what a kill during a save leaves
  const TrainResult resumed = tiny.run(config, {.resume = true});
  EXPECT_EQ(resumed.step, 12);
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000098.partial-abcdef")));
  EXPECT_NE(tiny.out.find("resumed from " + tiny.path("checkpoint-00000005")), std::string::npos) << tiny.out;
  for (const char* part :
       {"checkpoint-00000012", "corrupt", "checkpoint-00000010", "1000 bytes", "checkpoint-00000099"})
    EXPECT_NE(tiny.err.find(part), std::string::npos) << tiny.err;
}

TEST_F(Checkpoint, NoneWholeIsAnErrorAndKeepsWhatIsThere) {
  config.checkpoint.every = 0;
  tiny.run(config);
  fs::remove(tiny.path("checkpoint-00000012/state.json"));
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"none of its checkpoints"});
  EXPECT_TRUE(fs::exists(tiny.path("checkpoint-00000012/model.safetensors")));
  expect_error([&] { find_checkpoint(tiny.path("")); }, {"no whole checkpoint", "state.json"});
}

TEST_F(Checkpoint, KeepsTheNewest) {
  config.checkpoint.every = 2;
  config.checkpoint.keep = 2;
  tiny.run(config);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(tiny.path(""))) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"checkpoint-00000010", "checkpoint-00000012", "metrics.jsonl"}));
}

// What a kill within the last save left: it goes when the run goes on, not with its next save.
TEST_F(Checkpoint, AResumedRunRemovesWhatTheLastSaveDidNot) {
  config.train.steps = 10;
  tiny.run(config);
  fs::create_directories(tiny.path("checkpoint-00000010.partial-abcdef"));
  config.checkpoint.keep = 1;
  config.checkpoint.keep_best = false;
  tiny.run(config, {.resume = true});  // has no step left to do, and saves nothing
  EXPECT_EQ(tiny.out.find("saved "), std::string::npos) << tiny.out;
  EXPECT_EQ(checkpoint_folders(tiny.path("")), std::vector<std::string>{tiny.path("checkpoint-00000010")});
}

// A folder that is not whole and newer than what training resumed from must not count among those to keep.
TEST_F(Checkpoint, WhatWasPassedOverDoesNotPushOutWhatIsGood) {
  config.checkpoint.keep = 1;
  tiny.run(config);
  fs::create_directories(tiny.path("checkpoint-00000099"));
  config.train.steps = 14;
  tiny.run(config, {.resume = true});
  EXPECT_TRUE(fs::exists(tiny.path("checkpoint-00000014/state.json")));
  EXPECT_TRUE(fs::exists(tiny.path("checkpoint-00000099")));
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000012")));
}

TEST_F(ResumedRun, RefusesAnotherModelAndSaysWhatElseChanged) {
  tiny.run(config);
  fs::remove_all(tiny.path("checkpoint-00000012"));
  Config other = config;
  other.model.n_layer = 3;
  expect_error([&] { tiny.run(other, {.resume = true}); }, {"model.n_layer", "2", "3"});
  other = config;
  other.model.attention[0][0].buckets = 2;
  expect_error([&] { tiny.run(other, {.resume = true}); }, {"attention.buckets", "4", "2"});
  other = config;
  other.schedule.lr = 0.5e-2;
  other.eval.every = 3;
  tiny.run(other, {.resume = true});
  EXPECT_NE(tiny.err.find("schedule.lr was 0.01 and is now 0.005"), std::string::npos) << tiny.err;
  EXPECT_EQ(tiny.err.find("eval.every"), std::string::npos) << tiny.err;
  expect_error([&] { tiny.run(config, {.resume = true, .overwrite = true}); }, {"--resume", "--overwrite"});
  config.model.n_layer = 3;  // a dry run finds it too
  expect_error([&] { tiny.run(config, {.resume = true, .dry_run = true}); }, {"model.n_layer"});
}

TEST_F(ResumedRun, SaysWhenTheTextIsAnother) {
  TinyRun other;
  test::write_text(other.folder / "text.txt", std::string(20000, 'x'));
  other.prepare_text();
  tiny.run(config);
  config.train.steps = 13;
  config.data.directory = other.config().data.directory;
  tiny.run(config, {.resume = true});
  EXPECT_NE(tiny.err.find("not the training text of the checkpoint"), std::string::npos) << tiny.err;
}

TEST_F(ResumedRun, WithoutACheckpointStartsFromTheBeginning) {
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"runs/tiny", "no such run", "none"});
  EXPECT_FALSE(fs::exists(tiny.folder / "runs"));
  fs::create_directories(tiny.path(""));
  EXPECT_EQ(tiny.run(config, {.resume = true}).step, 12);
  EXPECT_NE(tiny.out.find("has no checkpoint yet"), std::string::npos);
  EXPECT_EQ(tiny.run(config, {.resume = true}).step, 12);  // nothing left to do
}

}  // namespace
}  // namespace scfa

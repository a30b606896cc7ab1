// A checkpoint's folder: what is checked before it is believed, and what is removed.
#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <random>

#include "core/signals.h"
#include "data/checksum.h"
#include "data/json_file.h"
#include "support/environment.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/tiny_run.h"
#include "train/checkpoint_files.h"
#include "train/config_io.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_text;
using test::write_text;

constexpr const char* kFiles[] = {"model.safetensors", "optimizer.safetensors", "state.json", "checkpoint.xxh3"};

// A run of two steps, saved after both.
class CheckpointFiles : public test::TinyRunTest {
 protected:
  void SetUp() override {
    config = tiny.config("dense");
    config.model.n_layer = 1;
    config.train.steps = 2;
    config.train.batch_size = config.train.micro_batch_size = 2;
    config.eval.windows = 2;
    config.checkpoint.every = 1;
    tiny.run(config);
    folder = tiny.path("checkpoint-00000002");
  }
  std::string file(const std::string& name) const { return folder + "/" + name; }

  // Writes other text for state.json, and the list of checksums that goes with it.
  void write_state(const std::string& text) const {
    std::vector<FileRecord> records = read_checksums(folder);
    for (FileRecord& record : records)
      if (record.name == "state.json")
        record = {record.name, static_cast<int64_t>(text.size()), checksum_of(text.data(), text.size())};
    write_text(file("state.json"), text);
    write_text(file("checkpoint.xxh3"), checksum_lines(records));
  }

  std::string folder;
};

TEST_F(CheckpointFiles, EveryFlippedBitIsFound) {
  std::mt19937 random(7);
  int flips = 0;
  for (const char* name : kFiles) {
    const std::string whole = read_text(file(name));
    for (int i = 0; i < 75; ++i, ++flips) {
      std::string bytes = whole;
      // Half of them within the first bytes, where headers are.
      const size_t at = random() % (i % 2 == 0 ? bytes.size() : std::min<size_t>(bytes.size(), 400));
      bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
      write_text(file(name), bytes);
      EXPECT_THROW(read_checkpoint_state(folder, Verify::kAll), Error) << name << " " << at;
      if (std::string(name) == "optimizer.safetensors") continue;  // generating does not look at it
      EXPECT_THROW(read_checkpoint_state(folder, Verify::kModel), Error) << name << " " << at;
    }
    write_text(file(name), whole);
  }
  EXPECT_EQ(flips, 300);
  EXPECT_EQ(read_checkpoint_state(folder, Verify::kAll).step, 2);
}

TEST_F(CheckpointFiles, WhatIsMissingOrShortIsNamed) {
  for (const char* name : kFiles) {
    const std::string whole = read_text(file(name));
    write_text(file(name), whole.substr(0, whole.size() - 1));
    expect_error([&] { read_checkpoint_state(folder, Verify::kAll); }, {name});
    fs::remove(file(name));
    expect_error([&] { read_checkpoint_state(folder, Verify::kAll); }, {name});
    write_text(file(name), whole);
  }
  const std::string list = read_text(file("checkpoint.xxh3"));
  const std::string without = list.substr(list.find('\n') + 1);  // a file less, with a right last line
  const std::string lines = without.substr(0, without.size() - 17);
  write_text(file("checkpoint.xxh3"), lines + to_hex(checksum_of(lines.data(), lines.size())) + "\n");
  expect_error([&] { read_checkpoint_state(folder, Verify::kAll); }, {"must name model.safetensors once"});
}

TEST_F(CheckpointFiles, TheStateIsReadStrictly) {
  const std::string whole = read_text(file("state.json"));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    write_state(text);
    return [this] { read_checkpoint_state(folder, Verify::kAll); };
  };
  expect_error(with("\"step\": 2", "\"step\": 22"), {"step 22", "folder's name"});
  expect_error(with("\"step\": 2", "\"step\": 2.7"), {"step", "whole number", "2.7"});
  expect_error(with("\"step\": 2", "\"step\": 2, \"step\": 2"), {"step", "twice"});
  expect_error(with("\"threads\": ", "\"threads\": -"), {"threads", "whole number"});
  expect_error(with("\"format\": 2", "\"format\": 3"), {"format 3", "1 and 2"});
  expect_error(with("\"tokenizer\": \"bytes\"", "\"tokenizer\": 5"), {"tokenizer", "string"});
  expect_error(with("\"n_layer\": 1", "\"n_layer\": \"1\""), {"config: model.n_layer", "integer"});
  write_state(whole);
  const fs::path renamed = tiny.folder / "mine";  // a name without a step says nothing of it
  fs::rename(folder, renamed);
  EXPECT_EQ(read_checkpoint_state(renamed, Verify::kAll).step, 2);
}

TEST_F(CheckpointFiles, KeepTheAlgorithmsOfGemms) {
  EXPECT_EQ(read_checkpoint_state(folder, Verify::kAll).gemms, "");  // a CPU has none
  Json state = read_json_file(file("state.json"));
  const Json gemms = {{"gpu", "a name"}, {"gemms", {{"8 x 8", {{"ms", 0.5}}}}}};
  state["gemms"] = gemms;
  write_state(state.dump());
  CheckpointState read = read_checkpoint_state(folder, Verify::kAll);
  EXPECT_EQ(Json::parse(read.gemms), gemms);
  Context ctx;
  ParameterStore store(ctx, read.config.model, {.training = true});
  HostState host_state(store, true);
  read_checkpoint(folder, store.table(), host_state);
  const std::string again = save_checkpoint(tiny.folder / "again", read, store.table(), host_state);
  EXPECT_EQ(read_checkpoint_state(again, Verify::kAll).gemms, read.gemms);
}

TEST_F(CheckpointFiles, AResumedRunTakesTheAlgorithmsOfItsCheckpoint) {
  test::skip_without_gpu();
  if (IsSkipped() || HasFailure()) return;
  const test::EnvironmentVariable cache("XDG_CACHE_HOME", tiny.folder / "cache");
  config.device = "gpu";
  tiny.run(config, {.overwrite = true});
  Json state = read_json_file(file("state.json"));
  ASSERT_FALSE(state.at("gemms").at("gemms").empty());
  for (auto& gemm : state["gemms"]["gemms"]) gemm["ms"] = 123.5;
  write_state(state.dump());
  config.train.steps = 3;
  tiny.run(config, {.resume = true});
  EXPECT_NE(tiny.out.find("GEMMs: algorithms from the checkpoint"), std::string::npos) << tiny.out;
  EXPECT_EQ(Json::parse(read_checkpoint_state(tiny.path("checkpoint-00000003"), Verify::kAll).gemms),
            state.at("gemms"));
}

TEST_F(CheckpointFiles, FormatOneIsRead) {
  Json state = read_json_file(file("state.json"));
  const CheckpointState now = read_checkpoint_state(folder, Verify::kAll);
  EXPECT_EQ(now.tokens, 2 * 2 * 64);
  EXPECT_TRUE(now.validation_loss.has_value());
  state["format"] = 1;
  state.erase("tokens");
  state.erase("validation_loss");
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    const std::string bytes = read_text(file(name));
    state["files"][name] = {{"bytes", bytes.size()}, {"xxh3", to_hex(checksum_of(bytes.data(), bytes.size()))}};
  }
  write_text(file("state.json"), state.dump());
  fs::remove(file("checkpoint.xxh3"));
  const CheckpointState before = read_checkpoint_state(folder, Verify::kAll);
  EXPECT_EQ(before.step, 2);
  EXPECT_EQ(before.tokens, 2 * 2 * 64);
  EXPECT_FALSE(before.validation_loss.has_value());
  EXPECT_TRUE(differences(before.config, now.config).empty());
  test::flip_bit(file("model.safetensors"), fs::file_size(file("model.safetensors")) / 2);
  expect_error([&] { read_checkpoint_state(folder, Verify::kModel); }, {"model.safetensors", "corrupt"});
}

TEST_F(CheckpointFiles, RemovingLeavesWhatNoSaveWrote) {
  write_text(tiny.path("checkpoint-00000001/notes.txt"), "mine");
  fs::create_directories(tiny.path("checkpoint-00000001/more"));
  write_text(tiny.path("notes.txt"), "mine");
  config.train.steps = 4;
  config.checkpoint.keep = 1;
  config.checkpoint.keep_best = false;
  tiny.run(config, {.resume = true});
  EXPECT_NE(tiny.err.find("checkpoint-00000001/notes.txt: stays"), std::string::npos) << tiny.err;
  EXPECT_EQ(tiny.err.find("notes.txt", tiny.err.find("notes.txt: stays") + 9), std::string::npos) << tiny.err;
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000001/state.json")));
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000002")));
  tiny.run(config, {.overwrite = true});
  // A checkpoint of the same step comes into its place.
  EXPECT_EQ(read_text(tiny.path("checkpoint-00000001.kept-1/notes.txt")), "mine");
  EXPECT_TRUE(fs::exists(tiny.path("checkpoint-00000001.kept-1/more")) && fs::exists(tiny.path("notes.txt")));
  EXPECT_NE(tiny.err.find("moved to " + tiny.path("checkpoint-00000001.kept-1")), std::string::npos) << tiny.err;
}

TEST_F(CheckpointFiles, TheBestByValidationLossIsKept) {
  // The loss falls, so a checkpoint with a loss that nothing reaches stands in for a better one.
  folder = tiny.path("checkpoint-00000001");
  Json state = read_json_file(file("state.json"));
  EXPECT_FALSE(state.contains("validation_loss"));
  state["validation_loss"] = 0.5;
  write_state(state.dump());
  config.train.steps = 5;
  config.eval.every = 1;
  config.checkpoint.keep = 1;
  tiny.run(config, {.resume = true});
  EXPECT_EQ(checkpoint_steps(tiny.path("")), (std::vector<int64_t>{5, 1}));
  EXPECT_TRUE(read_checkpoint_state(tiny.path("checkpoint-00000005"), Verify::kAll).validation_loss.has_value());
  config.train.steps = 6;
  config.checkpoint.keep_best = false;
  tiny.run(config, {.resume = true});
  EXPECT_EQ(checkpoint_steps(tiny.path("")), (std::vector<int64_t>{6}));
}

TEST_F(CheckpointFiles, AnEvaluatedStepIsNotEvaluatedAgain) {
  const auto evaluations = [&] {
    size_t count = 0;
    for (size_t at = 0; (at = tiny.out.find("validation loss", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  EXPECT_EQ(evaluations(), 2u);  // before the first step and behind the last
  const TrainResult again = tiny.run(config, {.resume = true});
  EXPECT_EQ(evaluations(), 0u);
  EXPECT_EQ(again.validation_loss, read_checkpoint_state(folder, Verify::kAll).validation_loss);
}

TEST_F(CheckpointFiles, TokensGoOnWithAnotherBatchSize) {
  config.train.steps = 3;
  config.train.batch_size = 6;
  tiny.run(config, {.resume = true});
  EXPECT_NE(tiny.records(3).at(0).find("\"tokens\":640"), std::string::npos) << tiny.records(3).at(0);  // (2+2+6) * 64
}

TEST_F(CheckpointFiles, SavesByTimeToo) {
  config.checkpoint.every = 0;
  config.checkpoint.minutes = 1e-9;
  tiny.run(config, {.overwrite = true});
  EXPECT_EQ(checkpoint_steps(tiny.path("")), (std::vector<int64_t>{2, 1}));
  config.checkpoint.minutes = 0;
  tiny.run(config, {.overwrite = true});
  EXPECT_EQ(checkpoint_steps(tiny.path("")), (std::vector<int64_t>{2}));
}

TEST_F(CheckpointFiles, ResumingByPath) {
  const ResumeSource run = resume_source(tiny.path(""));
  EXPECT_EQ(run.config.name, "tiny");
  EXPECT_EQ(run.config.runs, tiny.folder / "runs");
  EXPECT_TRUE(run.checkpoint.empty());
  EXPECT_EQ(resume_source(folder + "/").checkpoint, folder);
  const std::string first = tiny.path("checkpoint-00000001");
  config.train.steps = 3;
  expect_error([&] { tiny.run(config, {.resume = true, .resume_from = first}); }, {"00000001", "00000002 is later"});
  fs::remove(file("model.safetensors"));  // still later: its state is whole
  expect_error([&] { tiny.run(config, {.resume = true, .resume_from = first}); }, {"is later"});
  fs::remove(file("state.json"));
  EXPECT_EQ(tiny.run(config, {.resume = true, .resume_from = first}).step, 3);
  EXPECT_NE(tiny.out.find("resumed from " + first), std::string::npos) << tiny.out;
  expect_error([&] { resume_source(tiny.folder / "runs/tyni"); },
               {"tyni", "no such run", "holds tiny", "did you mean"});
  fs::create_directories(tiny.folder / "runs/empty");
  expect_error([&] { resume_source(tiny.folder / "runs/empty"); }, {"empty", "no checkpoint", "--config"});
}

TEST_F(CheckpointFiles, ALinkToACheckpointStandsForItsRunAndACopyForNone) {
  fs::create_directories(tiny.folder / "elsewhere");
  const std::string link = tiny.folder / "elsewhere/link", copy = tiny.folder / "elsewhere/copy";
  fs::create_directory_symlink(folder, link);
  const ResumeSource source = resume_source(link);
  EXPECT_EQ(source.checkpoint, fs::canonical(folder));
  EXPECT_EQ(source.config.name, "tiny");
  fs::copy(folder, copy);
  expect_error([&] { resume_source(copy); }, {copy.c_str(), "outside its run", "checkpoint-STEP"});
}

// Nothing is removed for a run that cannot start: text that JSON cannot hold, a signal before the first step.
TEST_F(CheckpointFiles, OverwritingRemovesNothingBeforeTheRunStarts) {
  Config other = config;
  other.data.prepare = "\xff";
  expect_error([&] { tiny.run(other, {.overwrite = true}); }, {"data.prepare", "UTF-8"});
  other = config;
  request_stop(SIGINT);
  EXPECT_THROW(tiny.run(other, {.overwrite = true}), Interrupted);
  reset_signals();
  EXPECT_TRUE(fs::exists(file("model.safetensors")));
  EXPECT_TRUE(fs::exists(tiny.path("metrics.jsonl")));
}

// A removal that was cut off looks like an unfinished save, and the next one finishes it.
TEST_F(CheckpointFiles, HalfARemovalIsNoBrokenCheckpoint) {
  const std::string run = tiny.path("");
  fs::rename(tiny.path("checkpoint-00000001"), tiny.path("checkpoint-00000001.partial-removed"));
  std::vector<std::string> rejected;
  ASSERT_TRUE(newest_checkpoint(run, Verify::kAll, &rejected));
  EXPECT_TRUE(rejected.empty());
  EXPECT_TRUE(remove_all_checkpoints(run).empty());
  EXPECT_TRUE(checkpoint_folders(run).empty());
}

}  // namespace
}  // namespace scfa

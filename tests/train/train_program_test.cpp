// ./train as a user meets it: its command line, signals, locks, output that cannot be written, limits.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "support/run_program.h"
#include "support/sanitized.h"
#include "support/tiny_run.h"
#include "train/config_io.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::expect_one_line;
using test::Outcome;
using test::read_text;
using test::TinyRun;
using test::wait_for;
using test::wait_until;

using Words = std::vector<std::string>;

// ./train on a tiny config file with these words behind it.
Words train_on(const TinyRun& tiny, const Words& more = {}) {
  Config config = tiny.config();
  config.model.n_layer = 1;
  config.train.steps = 4;
  config.train.batch_size = config.train.micro_batch_size = 2;
  config.eval.windows = 2;
  config.checkpoint.every = 2;
  test::write_text(tiny.folder / "tiny.json", to_json(config).dump());
  Words words{"train", "--config", tiny.folder / "tiny.json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// As long as anyone wants to look at it.
Words endless(const TinyRun& tiny, Words more = {}) {
  more.insert(more.begin(), {"--train.steps", "1000000", "--checkpoint.every", "0", "--checkpoint.keep", "0"});
  return train_on(tiny, more);
}

std::vector<std::string> checkpoints(const TinyRun& tiny) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(tiny.path("")))
    if (entry.path().filename().string().starts_with("checkpoint-")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void wait_for_steps(const TinyRun& tiny, size_t steps) {
  ASSERT_TRUE(wait_until([&] { return tiny.records(1).size() >= steps; }));
}

TEST(TrainProgram, WordsThatAreNotUnderstoodAreErrors) {
  const TinyRun tiny;
  const auto refused = [&](const Words& more, const std::string& part) {
    expect_one_line(execute(train_on(tiny, more)), "train: ", part);
  };
  refused({"-seed", "3"}, "-seed: is not an option");
  refused({"-lr", "0.1"}, "-lr: is not an option");
  refused({"-name", "x"}, "-name: is not an option");
  refused({"-"}, "belongs to no option");
  refused({"configs/x.json"}, "did you mean --config configs/x.json?");
  refused({"stray"}, "stray");
  refused({"--dry-run", "maybe"}, "maybe");
  refused({"--dry-run=maybe"}, "--dry-run: must be true or false");
  refused({"--overwrite=1"}, "--overwrite: must be true or false");
  refused({"--train.steps"}, "--train.steps: needs a value");
  refused({"--train.steps", "--dry-run"}, "--train.steps: needs a value");
  refused({"--train.steps="}, "--train.steps: must be an integer");
  refused({"--train-steps", "3"}, "--train-steps: is not an option");
  refused({"--train.stepz", "3"}, "train.steps");
  refused({"--attention", "{"}, "--attention: not valid JSON");
  refused({"--config", "other.json"}, "--config");
  refused({"--resume", "--overwrite"}, "give one");
  refused({"--resume="}, "--resume");
  EXPECT_FALSE(fs::exists(tiny.folder / "runs"));
  expect_one_line(execute({"train"}), "train: ", "--config");
  for (const char* word : {"-h", "--help", "--version"}) {
    const Outcome shown = execute({"train", word});
    EXPECT_EQ(shown.code, 0);
    EXPECT_EQ(shown.out.find("--train.steps") != std::string::npos, word != std::string("--version")) << shown.out;
  }
  EXPECT_EQ(execute({"train", "--print-config-docs"}).out, config_markdown());
}

TEST(TrainProgram, FlagsThatAreFalseAreNotSet) {
  const TinyRun tiny;
  EXPECT_EQ(execute(train_on(tiny, {"--dry-run"})).code, 0);
  EXPECT_EQ(execute(train_on(tiny, {"--dry-run=true"})).code, 0);
  EXPECT_FALSE(fs::exists(tiny.folder / "runs"));
  EXPECT_EQ(execute(train_on(tiny, {"--dry-run=false", "--resume=false"})).code, 0);
  EXPECT_EQ(checkpoints(tiny).back(), "checkpoint-00000004");
  const std::string metrics = read_text(tiny.path("metrics.jsonl"));
  expect_one_line(execute(train_on(tiny, {"--overwrite=false"})), "train: ", "holds a run already");
  EXPECT_EQ(read_text(tiny.path("metrics.jsonl")), metrics);
  EXPECT_EQ(execute(train_on(tiny, {"--overwrite", "--train.steps", "2", "--train.steps=3"})).code, 0);  // the last
  EXPECT_EQ(checkpoints(tiny).back(), "checkpoint-00000003");
}

TEST(TrainProgram, GoesOnFromAPathWithTheCheckpointsConfig) {
  const TinyRun tiny;
  ASSERT_EQ(execute(train_on(tiny, {"--schedule.schedule", "constant", "--seed", "5"})).code, 0);
  const std::string run = tiny.folder / "runs/tiny";
  const Outcome resumed = execute({"train", "--resume", run + "/", "--train.steps", "6"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.out.find("train.steps: 6 (was 4)"), std::string::npos) << resumed.out;
  EXPECT_NE(resumed.out.find("resumed from " + run + "/checkpoint-00000004"), std::string::npos) << resumed.out;
  EXPECT_NE(read_text(run + "/checkpoint-00000006/state.json").find("\"seed\": 5"), std::string::npos);
  EXPECT_EQ(execute({"train", "--resume", run + "/checkpoint-00000006", "--train.steps=7"}).code, 0);
  EXPECT_EQ(tiny.records(1).size(), 7u);
  expect_one_line(execute(train_on(tiny, {"--resume", run})), "train: ", "--config");
  expect_one_line(execute({"train", "--resume", run, "--name", "x"}), "train: ", "--name");
  expect_one_line(execute({"train", "--resume", run + "x"}), "train: ", "holds tiny");
  expect_one_line(execute(train_on(tiny, {"--resume", "--name", "tyni"})), "train: ", "did you mean \"tiny\"");
  EXPECT_FALSE(fs::exists(tiny.folder / "runs/tyni"));
}

TEST(TrainProgram, ASecondOneChangesNothing) {
  const TinyRun tiny;
  const Outcome first = execute(endless(tiny), [&](pid_t pid) {
    wait_for_steps(tiny, 1);
    for (const char* how : {"--overwrite", "--resume", "--dry-run", "--seed=1"}) {
      const Outcome second = execute(endless(tiny, {how}));
      EXPECT_EQ(second.code, 1);
      EXPECT_NE(second.err.find("is being written by another process (process " + std::to_string(pid)),
                std::string::npos)
          << second.err;
    }
    kill(pid, SIGTERM);
  });
  EXPECT_EQ(first.code, 128 + SIGTERM);
  const std::vector<std::string> records = tiny.records(1);
  for (size_t i = 0; i < records.size(); ++i)
    EXPECT_NE(records[i].find(concat("\"step\":", i + 1, ",")), std::string::npos) << records[i];
  // Two starts at once: one trains.
  const TinyRun other;
  const auto codes = [&](const Words& words) {
    std::vector<int> all(3);
    std::vector<std::thread> threads;
    for (int& code : all) threads.emplace_back([&] { code = execute(words).code; });
    for (std::thread& thread : threads) thread.join();
    return std::count(all.begin(), all.end(), 0);
  };
  EXPECT_GE(codes(train_on(other)), 1);
  EXPECT_EQ(other.records(1).size(), 4u);
  EXPECT_GE(codes(train_on(other, {"--resume", "--train.steps", "9"})), 1);
  EXPECT_EQ(other.records(1).size(), 9u);
}

TEST(TrainProgram, EverySignalSavesAndIsAcknowledgedAtOnce) {
  for (const int signal : {SIGHUP, SIGINT, SIGTERM, SIGUSR2}) {
    const TinyRun tiny;
    const Outcome outcome = execute(endless(tiny, {"--train.stop_seconds", "45"}), [&](pid_t pid) {
      wait_for_steps(tiny, 2);
      kill(pid, signal);
    });
    EXPECT_EQ(outcome.code, 128 + signal) << outcome.err;
    EXPECT_NE(outcome.err.find("with a checkpoint; without one if the step takes longer than 45 s"), std::string::npos);
    EXPECT_EQ(checkpoints(tiny).size(), 1u);
  }
}

// A signal between two micro-batches drops the step; resuming does it again.
TEST(TrainProgram, AStepThatIsLeftInItsMiddleIsDoneAgain) {
  const TinyRun whole, stopped;
  const Words long_step{"--train.batch_size", "400", "--train.micro_batch_size", "1", "--train.steps", "2"};
  ASSERT_EQ(execute(train_on(whole, long_step)).code, 0);
  const Outcome outcome = execute(train_on(stopped, long_step), [&](pid_t pid) {
    wait_for_steps(stopped, 1);
    kill(pid, SIGTERM);
  });
  EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
  EXPECT_EQ(checkpoints(stopped), Words{"checkpoint-00000001"});
  Words resumed = train_on(stopped, long_step);
  resumed.push_back("--resume");
  EXPECT_EQ(execute(resumed).code, 0);
  EXPECT_EQ(stopped.records(1), whole.records(1));
}

TEST(TrainProgram, Usr1SavesAndGoesOn) {
  const TinyRun tiny;
  const Outcome outcome = execute(endless(tiny), [&](pid_t pid) {
    wait_for_steps(tiny, 1);
    for (size_t saves = 1; saves <= 2; ++saves) {
      kill(pid, SIGUSR1);
      EXPECT_TRUE(wait_until([&] { return checkpoints(tiny).size() == saves; }));
    }
    kill(pid, SIGINT);
  });
  EXPECT_EQ(outcome.code, 128 + SIGINT) << outcome.err;
  EXPECT_NE(outcome.err.find("SIGUSR1: saving after this step"), std::string::npos) << outcome.err;
}

TEST(TrainProgram, APipeThatNobodyReadsSavesAndEnds) {
  const TinyRun tiny;
  const std::string pipe = tiny.folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::thread reader([&] {
    std::ifstream file(pipe);
    for (std::string line; std::getline(file, line) && !line.starts_with("step");) {
    }
  });
  const Outcome outcome =
      execute(endless(tiny, {"--log.every", "1"}), [](pid_t) {}, {.in = "/dev/null", .out = pipe, .err = {}});
  reader.join();
  EXPECT_EQ(outcome.code, 128 + SIGPIPE) << outcome.err;
  EXPECT_EQ(checkpoints(tiny).size(), 1u);
}

TEST(TrainProgram, ClosedDescriptorsPutNothingIntoFiles) {
  for (const bool err_too : {false, true}) {
    const TinyRun tiny;
    const Outcome outcome =
        execute(train_on(tiny), {.in = "/dev/null", .out = {}, .err = {}, .close_out = true, .close_err = err_too});
    EXPECT_EQ(outcome.code, 1);  // what it had to say did not get anywhere
    EXPECT_EQ(outcome.err.find("standard output: cannot be written") != std::string::npos, !err_too) << outcome.err;
    EXPECT_EQ(checkpoints(tiny).back(), "checkpoint-00000004");
    std::ifstream file(tiny.path("metrics.jsonl"));
    for (std::string line; std::getline(file, line);) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  }
}

TEST(TrainProgram, AFullDeviceForOutputIsAnErrorAndLosesNothing) {
  const TinyRun tiny;
  const Outcome outcome = execute(train_on(tiny), {.in = "/dev/null", .out = "/dev/full", .err = {}});
  expect_one_line(outcome, "train: ", "standard output: cannot be written: No space left");
  EXPECT_EQ(checkpoints(tiny).back(), "checkpoint-00000004");
}

TEST(TrainProgram, ALimitOfAddressSpaceIsAnError) {
  if (test::kSanitized) GTEST_SKIP() << "sanitizers take all of it";
  const TinyRun tiny;
  for (const size_t megabytes : {150, 250, 350, 420, 500}) {
    test::Streams streams;
    streams.address_space = megabytes << 20;
    const Outcome outcome = execute(train_on(tiny), streams);
    // With the CUDA libraries the program is too large for the loader, which says so itself.
    if (outcome.code == 127 && outcome.err.find("error while loading shared libraries") != std::string::npos) continue;
    EXPECT_EQ(outcome.code, 1) << megabytes;
    EXPECT_NE(outcome.err.find("ulimit -v"), std::string::npos) << megabytes << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
}

TEST(TrainProgram, ErrorsOfTheFileSystemAreOneLine) {
  const TinyRun tiny;
  test::write_text(tiny.folder / "file", "");
  expect_one_line(execute(train_on(tiny, {"--runs", tiny.folder / "file"})), "train: ", tiny.folder / "file");
  expect_one_line(execute({"train", "--config", tiny.folder / ""}), "train: ", "is a folder");
  expect_one_line(execute(train_on(tiny, {"--name", std::string(300, 'x')})), "train: ", "File name too long");
  fs::create_directories(tiny.path("metrics.jsonl"));
  expect_one_line(execute(train_on(tiny, {"--overwrite"})), "train: ", "metrics.jsonl");
}

TEST(TrainProgram, ShardsAreCheckedUnlessTheConfigSaysNo) {
  const TinyRun tiny;
  std::string shard;
  for (const auto& entry : fs::recursive_directory_iterator(tiny.folder / "data"))
    if (entry.path().filename().string().find("val") != std::string::npos && entry.is_regular_file())
      shard = entry.path();
  ASSERT_FALSE(shard.empty());
  const Outcome good = execute(train_on(tiny, {"--dry-run"}));
  EXPECT_NE(good.out.find(" checked in "), std::string::npos) << good.out;
  std::string bytes = read_text(shard);
  bytes[bytes.size() - 2] ^= 1;
  test::write_text(shard, bytes);
  expect_one_line(execute(train_on(tiny)), "train: ", fs::path(shard).filename());
  EXPECT_FALSE(fs::exists(tiny.path("")));
  const Outcome skipped = execute(train_on(tiny, {"--data.verify", "false"}));
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_NE(skipped.out.find("data.verify is false"), std::string::npos) << skipped.out;
}

// Killed at random moments, within saves among them, a run goes on to the same bits.
TEST(TrainProgram, ResumeAfterKillsEqualsTheRunNeverStopped) {
  const TinyRun whole, killed;
  const Words more{"--train.steps", "60", "--checkpoint.every", "2", "--checkpoint.keep", "1", "--eval.every", "10"};
  ASSERT_EQ(execute(train_on(whole, more)).code, 0);
  Words words = train_on(killed, more);
  std::mt19937 random(1);
  int kills = 0, within_saves = 0;
  for (int i = 0; i < 10; ++i) {
    const Outcome outcome = execute(words, [&](pid_t pid) {
      const size_t done = killed.records(1).size();
      wait_until([&] { return killed.records(1).size() > done || kill(pid, 0) != 0; });
      if (i % 2 == 0)  // until a save is under way
        for (int wait = 0; wait < 20000; ++wait)
          if (std::any_of(fs::directory_iterator(killed.path("")), fs::directory_iterator(), [](const auto& entry) {
                return entry.path().string().find(".partial-") != std::string::npos;
              })) {
            ++within_saves;
            break;
          }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % (i % 2 == 0 ? 500 : 20000)));
      kill(pid, SIGKILL);
    });
    kills += outcome.code == -SIGKILL;
    if (i == 0) words.push_back("--resume");
  }
  EXPECT_GT(kills, 4);  // a fast machine may be done before the last
  EXPECT_GT(within_saves, 1);
  const Outcome resumed = execute(words);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  for (const char* name : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(read_text(killed.path(concat("checkpoint-00000060/", name))) ==
                read_text(whole.path(concat("checkpoint-00000060/", name))));
  EXPECT_EQ(killed.records(1), whole.records(1));
  for (const auto& entry : fs::directory_iterator(killed.folder / "runs")) EXPECT_EQ(entry.path().filename(), "tiny");
  for (const std::string& name : checkpoints(killed)) EXPECT_EQ(name.find(".partial"), std::string::npos) << name;
}

}  // namespace
}  // namespace scfa

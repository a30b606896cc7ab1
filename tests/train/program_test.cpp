// The programs as a user meets them: exit codes, one line of error, signals.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/config_io.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::expect_one_line;
using test::Outcome;
using test::TinyRun;
using test::wait_for;

TEST(Programs, BadCommandLinesAreOneLineAndExitCodeOne) {
  expect_one_line(execute({"train"}), "train: ", "--config");
  expect_one_line(execute({"train", "--config", "nowhere.json"}), "train: ", "nowhere.json");
  expect_one_line(execute({"train", "--config", "x", "--train.stepz", "3"}), "train: ", "train.steps");
  expect_one_line(execute({"train", "--config", "x", "stray"}), "train: ", "stray");
  expect_one_line(execute({"train", "--config"}), "train: ", "config");
  expect_one_line(execute({"generate"}), "generate: ", "--checkpoint");
  expect_one_line(execute({"generate", "--checkpoint", "nowhere"}), "generate: ", "nowhere");
  expect_one_line(execute({"bench"}), "bench: ", "attention");
  expect_one_line(execute({"bench", "everything"}), "bench: ", "everything");
}

TEST(Programs, HelpComesFromTheDeclaration) {
  const Outcome help = execute({"train", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const FieldDoc& doc : config_docs()) EXPECT_NE(help.out.find("--" + doc.key), std::string::npos) << doc.key;
  EXPECT_EQ(execute({"generate", "--help"}).code, 0);
  EXPECT_EQ(execute({"bench", "--help"}).code, 0);
}

// A config file for a run that takes long enough to be interrupted.
std::vector<std::string> long_run(const TinyRun& tiny) {
  Config config = tiny.config();
  config.checkpoint.every = 7;
  config.checkpoint.keep = 2;
  config.eval.every = 50;
  test::write_text(tiny.folder / "tiny.json", to_json(config).dump());
  return {"train", "--config", tiny.folder / "tiny.json", "--train.steps", "400", "--attention.buckets=2"};
}

TEST(Programs, ResumeAfterSignalsEqualsTheRunNeverStopped) {
  TinyRun whole, stopped;
  const Outcome reference = execute(long_run(whole));
  ASSERT_EQ(reference.code, 0) << reference.err;
  EXPECT_NE(reference.out.find("hash with 2 buckets"), std::string::npos) << reference.out;
  std::vector<std::string> words = long_run(stopped);
  const Outcome terminated = execute(words, [&](pid_t pid) {
    wait_for(stopped.path("checkpoint-00000007"));
    kill(pid, SIGTERM);
  });
  EXPECT_EQ(terminated.code, 128 + SIGTERM) << terminated.out << terminated.err;
  EXPECT_NE(terminated.out.find("stopped by signal 15"), std::string::npos);
  words.push_back("--resume");
  std::mt19937 random(1);
  int kills = 0;
  for (int i = 0; i < 3; ++i) {  // killed outright, at whatever it is doing once it trains
    const auto size = fs::file_size(stopped.path("metrics.jsonl"));
    const Outcome killed = execute(words, [&](pid_t pid) {
      for (int wait = 0; wait < 4000 && fs::file_size(stopped.path("metrics.jsonl")) < size + 4000; ++wait)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
      kill(pid, SIGKILL);
    });
    kills += killed.code == -SIGKILL;
  }
  EXPECT_GT(kills, 0);  // a fast machine may be done before the last
  const Outcome resumed = execute(words);
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(test::read_text(stopped.path("checkpoint-00000400/model.safetensors")) ==
              test::read_text(whole.path("checkpoint-00000400/model.safetensors")));
  for (const auto& entry : fs::directory_iterator(stopped.folder / "runs")) EXPECT_EQ(entry.path().filename(), "tiny");
}

TEST(Programs, BenchWritesItsTable) {
  const test::TempDir folder;
  const std::string csv = folder / "attention.csv";
  const Outcome outcome =
      execute({"bench", "attention", "--length", "128", "--heads", "2", "--repeats", "1", "--csv", csv});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string text = test::read_text(csv);
  EXPECT_EQ(text.substr(0, text.find('\n')),
            "system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,gpu");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 8);
  EXPECT_NE(text.find("\nscfa,hash_skewed,128,"), std::string::npos) << text;
}

TEST(Programs, BenchTimesEveryOp) {
  const Outcome names = execute({"bench", "op"});
  EXPECT_EQ(names.code, 0) << names.err;
  std::string list = names.out.substr(names.out.find(':') + 1);
  const auto count = std::count(list.begin(), list.end(), ',') + 1;
  const Outcome all = execute({"bench", "op", "all", "--length", "64", "--heads", "2", "--width", "64", "--outputs",
                               "64", "--vocabulary", "128", "--parameters", "999", "--repeats", "1"});
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(std::count(all.out.begin(), all.out.end(), '\n'), count + 2) << all.out;
  EXPECT_EQ(all.out.find("nan"), std::string::npos) << all.out;
  expect_one_line(execute({"bench", "op", "spin"}), "bench: ", "spin");
  expect_one_line(execute({"bench", "op", "cast", "--width", "0"}), "bench: ", "--width");
}

}  // namespace
}  // namespace scfa

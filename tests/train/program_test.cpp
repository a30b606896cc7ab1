// The programs as a user meets them: exit codes, one line of error.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/gpu.h"
#include "support/run_program.h"
#include "train/config_io.h"

namespace scfa {
namespace {

using test::execute;
using test::expect_one_line;
using test::Outcome;

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

// A command that the user did not mean for the CPU may take hours there.
TEST(Programs, SayWhyTheyComputeOnTheCpuOfAMachineWithACudaDriver) {
  const auto timed_on = [](const char* device) {
    return execute({"bench", "attention", "--length", "64", "--heads", "4", "--repeats", "1", "--patterns", "dense",
                    "--device", device},
                   [](pid_t) {}, {.environment = {{"CUDA_VISIBLE_DEVICES", "-1"}}});
  };
  const Outcome chosen = timed_on("auto");
  EXPECT_EQ(chosen.code, 0) << chosen.err;
  const bool warned = chosen.err.starts_with("bench: warning: computes on the CPU: ");
  EXPECT_EQ(warned, gpu::has_driver()) << chosen.err;
  EXPECT_EQ(chosen.err.find("CUDA_VISIBLE_DEVICES is \"-1\"") != std::string::npos, gpu::has_driver()) << chosen.err;
  EXPECT_EQ(timed_on("cpu").err, "");
  expect_one_line(timed_on("gpu"), "bench: ", "device: gpu");
}

TEST(Programs, HelpComesFromTheDeclaration) {
  const Outcome help = execute({"train", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const FieldDoc& doc : config_docs()) EXPECT_NE(help.out.find("--" + doc.key), std::string::npos) << doc.key;
  EXPECT_EQ(execute({"generate", "--help"}).code, 0);
  EXPECT_EQ(execute({"bench", "--help"}).code, 0);
}

TEST(Programs, BenchWritesItsTable) {
  const test::TempDir folder;
  const std::string csv = folder / "attention.csv";
  const Outcome outcome =
      execute({"bench", "attention", "--length", "128", "--heads", "8", "--repeats", "1", "--csv", csv});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string text = test::read_text(csv);
  EXPECT_EQ(
      text.substr(0, text.find('\n')),
      "system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,low_ms,high_ms,"
      "share_of_pairs,bucket_pairs_seen,inputs,gpu");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 16) << text;
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

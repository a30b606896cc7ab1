// Two ranks with NCCL on one GPU: the sums, and whole runs against one rank. Slow (sockets), so right and wrong only.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "comm/collectives.h"
#include "core/gpu.h"
#include "data/json_file.h"
#include "support/gpu.h"
#include "support/rank_run.h"
#include "train/checkpoint.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::RankRun;
using test::read_text;
using test::wait_until;
using test::Words;

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    test::skip_without_gpu();
    if (!IsSkipped() && !nccl::built()) GTEST_SKIP() << nccl::description();
  }

  // Three blocks of a size that takes several buckets.
  static Words gpu_words(const Words& more) {
    Words words{"--device",           "gpu", "--share-gpu",       "--overwrite", "--model.n_layer", "3",
                "--model.n_embd",     "64",  "--train.bucket_mb", "0.1",         "--train.steps",   "50",
                "--checkpoint.every", "0",   "--checkpoint.keep", "1",           "--eval.every",    "25",
                "--schedule.lr",      "3e-3"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  static std::string state(const RankRun& run) {
    return read_text(run.checkpoint(50, "model.safetensors")) + read_text(run.checkpoint(50, "optimizer.safetensors"));
  }

  static std::vector<double> losses(const RankRun& run) {
    std::vector<double> found;
    std::ifstream file(run.path("metrics.jsonl"));
    for (std::string line; std::getline(file, line);)
      if (const Json record = Json::parse(line); record["type"] == "step")
        found.push_back(record["loss"].get<double>());
    return found;
  }
};

// Sums of two commute, so however they are made they have the same bits.
TEST_F(Nccl, TwoRanksTrainTheSameBitsWithZeroOrWithoutBesideBackwardOrAfterIt) {
  RankRun run;
  RankRun::expect_success(run.ranks(2, gpu_words({})));
  const std::string plain = state(run);
  const std::vector<double> two = losses(run);
  ASSERT_EQ(two.size(), 50u);
  for (const Words& words : {Words{}, Words{"--train.overlap", "beside"}, Words{"--train.overlap", "after"},
                             Words{"--train.zero", "1"}, Words{"--train.zero", "1", "--train.overlap", "beside"}}) {
    RankRun::expect_success(run.ranks(2, gpu_words(words)));
    EXPECT_TRUE(state(run) == plain) << (words.empty() ? "again" : words[0] + " " + words[1]);
  }
  RankRun::expect_success(run.ranks(1, gpu_words({})));
  const std::vector<double> one = losses(run);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(two[i], one[i], 0.01 * one[i]) << i;
  EXPECT_NEAR(two[0], one[0], 1e-6 * one[0]);  // before the first update
  // bf16 rounds the sums; the loss must not notice.
  RankRun::expect_success(run.ranks(2, gpu_words({"--train.reduce_dtype", "bf16"})));
  const std::vector<double> rounded = losses(run);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(rounded[i], one[i], 0.02 * one[i]) << i;
  RankRun::expect_success(run.ranks(2, gpu_words({"--train.reduce_dtype", "bf16", "--train.zero", "1"})));
  EXPECT_EQ(losses(run), rounded);
}

TEST_F(Nccl, AShardedRunGoesOnAlone) {
  RankRun run;
  RankRun::expect_success(
      run.ranks(2, gpu_words({"--train.zero", "1", "--checkpoint.every", "20", "--checkpoint.keep", "0"})));
  const std::vector<double> whole = losses(run);
  fs::remove_all(run.path("checkpoint-00000050"));
  Words words = gpu_words({"--train.zero", "1"});
  std::replace(words.begin(), words.end(), std::string("--overwrite"), std::string("--resume"));
  RankRun::expect_success(run.ranks(2, words));
  EXPECT_EQ(losses(run), whole);
  fs::remove_all(run.path("checkpoint-00000050"));
  RankRun::expect_success(run.ranks(1, words));
  const std::vector<double> alone = losses(run);
  ASSERT_EQ(alone.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(alone[i], whole[i], 0.01 * whole[i]) << i;
}

TEST_F(Nccl, TwoRanksOnOneGpuNeedAFlag) {
  if (gpu::count() > 1) GTEST_SKIP() << "each rank has a GPU of its own here";
  const RankRun run;
  RankRun::expect_one_voice(run.ranks(2, {"--device", "gpu"}), "have the same GPU");
}

TEST_F(Nccl, ARankThatIsKilledIsNamedAndEndsTheOther) {
  RankRun run;
  const std::vector<Outcome> outcomes =
      run.ranks(2, gpu_words({"--train.steps", "1000000"}), [&](const std::vector<pid_t>& pids) {
        EXPECT_TRUE(wait_until([&] { return run.TinyRun::records(1).size() >= 3; }));
        kill(pids[1], SIGKILL);
      });
  RankRun::expect_one_voice(outcomes, "rank 1 on ");
}

TEST_F(Nccl, ARankThatIsStoppedIsNamedAndEndsTheOther) {
  RankRun run;
  const std::vector<Outcome> outcomes = run.ranks(
      2, gpu_words({"--train.steps", "1000000", "--train.watchdog_seconds", "5"}), [&](const std::vector<pid_t>& pids) {
        EXPECT_TRUE(wait_until([&] { return run.TinyRun::records(1).size() >= 3; }));
        kill(pids[1], SIGSTOP);
        siginfo_t info{};
        waitid(P_PID, static_cast<id_t>(pids[0]), &info, WEXITED | WNOWAIT);
        kill(pids[1], SIGKILL);
      });
  RankRun::expect_one_voice(outcomes, "has not been heard from for ");
}

}  // namespace
}  // namespace scfa

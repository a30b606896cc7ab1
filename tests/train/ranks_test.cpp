// Runs of several ranks on CPUs, as users start them: results for any number of ranks, one voice, ranks that end.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "comm/mpi.h"
#include "data/json_file.h"
#include "support/rank_run.h"
#include "support/safetensors_reader.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::Outcome;
using test::RankRun;
using test::read_text;
using test::Streams;
using test::wait_until;
using test::Words;
using Clock = std::chrono::steady_clock;

std::vector<Json> records(const RankRun& run, const std::string& type) {
  std::vector<Json> found;
  std::ifstream file(run.path("metrics.jsonl"));
  for (std::string line; std::getline(file, line);)
    if (const Json record = Json::parse(line); record["type"] == type) found.push_back(record);
  return found;
}

std::vector<double> losses(const RankRun& run) {
  std::vector<double> found;
  for (const char* type : {"step", "eval"})
    for (const Json& record : records(run, type)) found.push_back(record["loss"].get<double>());
  return found;
}

void expect_close(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-6 * want[i]) << i;
}

// Model and moments of the last checkpoint, bit for bit.
std::string last_state(const RankRun& run) {
  return read_text(run.checkpoint(12, "model.safetensors")) + read_text(run.checkpoint(12, "optimizer.safetensors"));
}

void wait_for_steps(const RankRun& run, size_t steps) {
  ASSERT_TRUE(wait_until([&] { return run.TinyRun::records(1).size() >= steps; }));
}

// Under the address sanitizer: Open MPI does not free all it took.
const std::pair<std::string, std::string> kMpiLeaks{"ASAN_OPTIONS", "detect_leaks=0"};

const Words kEndless{"--train.steps", "1000000", "--checkpoint.every", "0", "--eval.every", "0", "--eval.windows", "1"};

TEST(Ranks, AnyNumberTrainsTheSameModel) {
  RankRun run;
  RankRun::expect_success(run.ranks(1));
  const std::vector<double> alone = losses(run);
  ASSERT_EQ(alone.size(), 15u);
  const Json first = records(run, "eval").front();
  ASSERT_FALSE(first["effective_segments"].empty());
  for (const int n : {2, 3, 4}) {
    RankRun::expect_success(run.ranks(n, {"--overwrite", "--log.every", "1"}));
    EXPECT_GT(records(run, "profile").back()["times"]["communication_exposed"], 0);
    expect_close(losses(run), alone);
    // Of the same parameters: nothing depends on who evaluated which windows.
    for (const char* key : {"loss", "accuracy", "tokens", "share_of_pairs", "effective_segments", "largest_segment"})
      EXPECT_EQ(records(run, "eval").front()[key], first[key]) << key << " of " << n << " ranks";
    EXPECT_EQ(records(run, "header")[0]["ranks"], n);
    EXPECT_EQ(records(run, "step").back()["tokens"], 12 * 12 * 64);
  }
}

TEST(Ranks, ARunIsTheSameBitForBitEachTime) {
  RankRun run;
  RankRun::expect_success(run.ranks(3));
  const std::string state = last_state(run);
  const std::vector<double> first = losses(run);
  RankRun::expect_success(run.ranks(3, {"--overwrite"}));
  EXPECT_EQ(losses(run), first);
  EXPECT_TRUE(last_state(run) == state);
}

// The loads of buckets are those of all ranks, so biases are as with one, to rounding of the parameters.
TEST(Ranks, LearnBiasesOfBucketsTogether) {
  RankRun run;
  const Words words{"--overwrite", "--attention.bias_rate", "0.1", "--train.check_replicas", "1"};
  RankRun::expect_success(run.ranks(1, words));
  const std::vector<double> alone = losses(run);
  const char* name = "h.1.attn.bucket_bias.heads_0_to_1.rounds_1.buckets_4";
  const auto biases = [&] {
    return test::SafetensorsFile(run.checkpoint(12, "model.safetensors")).tensors.at(name).values;
  };
  const std::vector<float> want = biases();
  EXPECT_GT(*std::max_element(want.begin(), want.end()), 0.05f);
  for (const int n : {2, 3}) {
    Words its = words;
    if (n == 3) its.insert(its.end(), {"--train.zero", "1", "--train.recompute", "block"});
    RankRun::expect_success(run.ranks(n, its));
    expect_close(losses(run), alone);
    const std::vector<float> got = biases();
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-2f) << i;
  }
}

// On CPUs sums have one order however they are made.
TEST(Ranks, ZeroOverlapAndBucketsChangeNothing) {
  for (const int n : {2, 3}) {
    RankRun run;
    RankRun::expect_success(run.ranks(n));
    const std::string state = last_state(run);
    for (const Words& words : {Words{"--train.zero", "1"}, Words{"--train.zero", "1", "--train.bucket_mb", "0"},
                               Words{"--train.bucket_mb", "0"}, Words{"--train.overlap", "beside"}}) {
      Words all = words;
      all.push_back("--overwrite");
      RankRun::expect_success(run.ranks(n, all));
      EXPECT_TRUE(last_state(run) == state) << n << " ranks, " << words[0] << " " << words[1];
    }
  }
}

// Weights in 8 bits are made of weights that have arrived from the other ranks.
TEST(Ranks, Fp8IsTheSameRun) {
  RankRun run;
  const Words words{"--overwrite", "--train.precision", "fp8"};
  RankRun::expect_success(run.ranks(1, words));
  const std::vector<double> alone = losses(run);
  for (const char* zero : {"0", "1"}) {
    Words its = words;
    its.insert(its.end(), {"--train.zero", zero});
    RankRun::expect_success(run.ranks(3, its));
    expect_close(losses(run), alone);
  }
}

TEST(Ranks, CheckpointsDoNotKnowHowManyThereWere) {
  RankRun run;
  RankRun::expect_success(run.ranks(1));
  const std::vector<double> alone = losses(run);
  RankRun::expect_success(run.ranks(3, {"--overwrite", "--train.zero", "1"}));
  fs::remove_all(run.path("checkpoint-00000012"));
  fs::remove_all(run.path("checkpoint-00000008"));
  std::vector<Outcome> two = run.ranks(2, {"--resume"});
  RankRun::expect_success(two);
  EXPECT_NE(two[0].out.find("ranks were 3 and are now 2"), std::string::npos) << two[0].out;
  fs::remove_all(run.path("checkpoint-00000012"));
  RankRun::expect_success(run.ranks(1, {"--resume", "--train.zero", "1"}));
  expect_close(losses(run), alone);
  fs::remove_all(run.path("checkpoint-00000012"));
  RankRun::expect_success(run.ranks(3, {"--resume", "--train.zero", "1"}));
  expect_close(losses(run), alone);
}

TEST(Ranks, Mpirun) {
  if (!mpi::built() || !fs::exists("/usr/bin/mpirun")) GTEST_SKIP() << "there is no mpirun";
  RankRun run;
  RankRun::expect_success(run.ranks(2));
  const std::string state = last_state(run);
  const auto mpirun = [&](const char* n, const Words& more) {
    Words words{"/usr/bin/mpirun", "--oversubscribe", "-n", n, std::string(SCFA_BINARY_DIR) + "/train"};
    const Words rest = run.words(more);
    words.insert(words.end(), rest.begin() + 1, rest.end());
    Streams streams;
    streams.environment = {
        {"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}, {"OMP_NUM_THREADS", "1"}, kMpiLeaks};
    return execute(words, streams);
  };
  const Outcome two = mpirun("2", {"--overwrite"});
  EXPECT_EQ(two.code, 0) << two.err;
  EXPECT_NE(two.out.find("ranks: 2 ranks on 1 host, started by mpirun (Open MPI"), std::string::npos) << two.out;
  EXPECT_TRUE(last_state(run) == state);  // MPI and sockets move the same bits
  const Outcome zero = mpirun("2", {"--overwrite", "--train.zero", "1"});
  EXPECT_EQ(zero.code, 0) << zero.err;
  EXPECT_TRUE(last_state(run) == state);
  const Outcome odd = mpirun("5", {"--overwrite"});
  EXPECT_NE(odd.code, 0);
  EXPECT_NE(odd.err.find("train: train.batch_size: 12 sequences"), std::string::npos) << odd.err;
  EXPECT_EQ(odd.err.find("12 sequences"), odd.err.rfind("12 sequences")) << odd.err;  // once
}

// ---- one voice ------------------------------------------------------------------------------------------------------

TEST(Ranks, WhatDoesNotFitIsToldOnce) {
  const RankRun run;
  RankRun::expect_one_voice(
      run.ranks(2, {"--train.batch_size", "10", "--train.micro_batch_size", "2"}),
      "train.batch_size: 10 sequences a step cannot be shared out over 2 ranks in micro-batches of "
      "2; train.micro_batch_size 1 would do, or train.batch_size 12");
  RankRun::expect_one_voice(run.ranks(2, {"--train.reduce_dtype", "bf16"}), "train.reduce_dtype");
  RankRun::expect_one_voice(run.ranks(3, {"--nonsense", "1"}), "nonsense");
  RankRun::expect_one_voice(run.ranks(2, {"--ranks", "4"}), "--ranks: is for --dry-run");
  EXPECT_FALSE(fs::exists(run.folder / "runs"));
}

TEST(Ranks, OthersWithAnotherConfigOrTextAreNamed) {
  RankRun run;
  const auto nothing = [](const std::vector<pid_t>&) {};
  std::vector<Outcome> outcomes = run.ranks(2, {}, nothing, [](int r, Words& words, Streams&) {
    if (r == 1) words.insert(words.end(), {"--schedule.lr", "0.5"});
  });
  RankRun::expect_one_voice(outcomes, "has another config than rank 0: schedule.lr is 0.5, but 0.01 on rank 0");
  // The same command in two folders: each has a text of its own.
  fs::create_directories(run.folder / "one");
  fs::rename(run.folder / "data", run.folder / "one/data");
  test::write_text(run.folder / "text.txt", "Another text. " + read_text(run.folder / "text.txt"));
  run.prepare_text();
  outcomes = run.ranks(2, {"--data.directory", "data"}, nothing, [&](int r, Words&, Streams& streams) {
    streams.folder = r == 0 ? run.folder / "" : run.folder / "one";
  });
  RankRun::expect_one_voice(outcomes, "the prepared text of rank 1 on ");
  EXPECT_FALSE(fs::exists(run.folder / "runs"));
}

TEST(Ranks, HelpIsPrintedOnce) {
  const RankRun run;
  const std::vector<Outcome> outcomes = run.ranks(2, {"--help"});
  RankRun::expect_success(outcomes);
  EXPECT_NE(outcomes[0].out.find("mpirun -n N train"), std::string::npos);
}

TEST(Ranks, ADryRunPlansForAnyNumber) {
  const RankRun run;
  const Outcome outcome = execute(run.words({"--dry-run", "--ranks", "6", "--train.zero", "1"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("memory of each of 6 ranks: "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("in 2 micro-batches on each of 6 ranks"), std::string::npos) << outcome.out;
  EXPECT_FALSE(fs::exists(run.folder / "runs"));
  const Outcome odd = execute(run.words({"--dry-run", "--ranks", "5"}));
  test::expect_one_line(odd, "train: train.batch_size: 12 sequences", "5 ranks");
}

// ---- signals --------------------------------------------------------------------------------------------------------

TEST(Ranks, ASignalOfOneEndsAllWithACheckpoint) {
  for (const size_t signalled : {0u, 1u}) {
    RankRun run;
    const std::vector<Outcome> outcomes = run.ranks(3, kEndless, [&](const std::vector<pid_t>& pids) {
      wait_for_steps(run, 3);
      kill(pids[signalled], SIGTERM);
    });
    for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
    EXPECT_EQ(outcomes[1].out + outcomes[1].err + outcomes[2].out + outcomes[2].err, "");
    const CheckpointState state = find_checkpoint(run.path(""), Verify::kAll);
    EXPECT_NE(outcomes[0].out.find(concat("stopped by signal 15 after step ", state.step)), std::string::npos)
        << outcomes[0].out;
    EXPECT_EQ(state.ranks, 3);
  }
}

TEST(Ranks, Usr1OfOneSavesAndGoesOn) {
  RankRun run;
  const std::vector<Outcome> outcomes = run.ranks(2, kEndless, [&](const std::vector<pid_t>& pids) {
    wait_for_steps(run, 2);
    kill(pids[1], SIGUSR1);
    EXPECT_TRUE(wait_until([&] { return !checkpoint_folders(run.path("")).empty(); }));
    kill(pids[0], SIGINT);
  });
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.code, 128 + SIGINT) << outcome.err;
}

// ---- ranks that end or hang -----------------------------------------------------------------------------------------

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

TEST(Ranks, OneThatIsKilledIsNamedAndEndsAll) {
  for (const size_t killed : {1u, 2u, 0u}) {
    RankRun run;
    Clock::time_point begin;
    const std::vector<Outcome> outcomes =
        run.ranks(3, {"--train.steps", "1000000", "--checkpoint.every", "2"}, [&](const std::vector<pid_t>& pids) {
          wait_for_steps(run, 3);
          begin = Clock::now();
          kill(pids[killed], SIGKILL);
        });
    EXPECT_LT(seconds_since(begin), 20);
    EXPECT_EQ(outcomes[killed].code, -SIGKILL);
    RankRun::expect_one_voice(outcomes, concat("rank ", killed, " on "), killed == 0 ? 1 : 0);
    const std::string& said = outcomes[killed == 0 ? 1 : 0].err;
    for (const char* part : {"exited unexpectedly (killed?)", "last seen in ", "the last checkpoint is "})
      EXPECT_NE(said.find(part), std::string::npos) << said;
    EXPECT_NO_THROW(find_checkpoint(run.path(""), Verify::kAll));
  }
}

TEST(Ranks, OneThatIsStoppedIsNamedAndEndsAll) {
  for (const size_t stopped : {1u, 0u}) {
    RankRun run;
    Words words = kEndless;
    words.insert(words.end(), {"--train.watchdog_seconds", "4"});
    Clock::time_point begin;
    const std::vector<Outcome> outcomes = run.ranks(3, words, [&](const std::vector<pid_t>& pids) {
      wait_for_steps(run, 3);
      begin = Clock::now();
      kill(pids[stopped], SIGSTOP);
      for (size_t r = 0; r < pids.size(); ++r) {
        if (r == stopped) continue;
        siginfo_t info{};
        waitid(P_PID, static_cast<id_t>(pids[r]), &info, WEXITED | WNOWAIT);
      }
      EXPECT_LT(seconds_since(begin), 4 + 20);
      kill(pids[stopped], SIGKILL);
    });
    EXPECT_EQ(outcomes[stopped].code, -SIGKILL);
    const std::string& said = outcomes[stopped == 0 ? 1 : 0].err;
    RankRun::expect_one_voice(outcomes, "has not been heard from for ", stopped == 0 ? 1 : 0);
    EXPECT_NE(said.find(concat("rank ", stopped, " on ")), std::string::npos) << said;
    EXPECT_NE(said.find("the last checkpoint is "), std::string::npos) << said;
  }
}

// Outside a step there is no watchdog: a rank that is not heard from is enough. And a signal ends ranks that wait for
// one which never answers.
TEST(Ranks, WaitingAtTheStartEndsByASignalOrWhenOneIsSilent) {
  RankRun run;
  const std::string fifo = run.folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const std::vector<Outcome> outcomes = run.ranks(
      2, {},
      [&](const std::vector<pid_t>& pids) {
        std::this_thread::sleep_for(std::chrono::milliseconds(700));
        kill(pids[0], SIGTERM);
        siginfo_t info{};
        waitid(P_PID, static_cast<id_t>(pids[0]), &info, WEXITED | WNOWAIT);
        kill(pids[1], SIGKILL);
      },
      [&](int r, Words& words, Streams&) {
        if (r == 1) words[2] = fifo;  // a config that never comes
      });
  EXPECT_EQ(outcomes[0].code, 128 + SIGTERM) << outcomes[0].err;
  EXPECT_NE(outcomes[0].err.find("ended by signal 15 in starting"), std::string::npos) << outcomes[0].err;
}

// As where MPI of another kind is linked than that of the launcher.
TEST(Ranks, AnMpiThatSeesOtherRanksIsRefused) {
  if (!mpi::built()) GTEST_SKIP() << "there is no MPI";
  const RankRun run;
  Streams streams;
  streams.environment = {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "3"}, kMpiLeaks};
  test::expect_one_line(execute(run.words({}), streams), "train: mpirun started 3 processes, but the MPI", "sees 1");
}

TEST(Ranks, AnotherListenerInThePlaceOfRank0IsNamed) {
  const Listener stranger(0);
  const RankRun run;
  Streams zero = RankRun::as_rank(0, 2, stranger.port()), one = RankRun::as_rank(1, 2, stranger.port());
  one.environment.emplace_back("SCFA_JOIN_SECONDS", "1");
  test::expect_one_line(execute(run.words({}), zero), "train: rank 0 cannot listen on port ", "set MASTER_PORT");
  test::expect_one_line(execute(run.words({}), one), "train: rank 1 on ", "another program listens there");
}

// A file as large as a limit allows stands for a full disk.
TEST(Ranks, AFullDiskOfRank0EndsAll) {
  RankRun run;
  const auto nothing = [](const std::vector<pid_t>&) {};
  const std::vector<Outcome> outcomes = run.ranks(2, {}, nothing, [](int r, Words&, Streams& streams) {
    if (r == 0) streams.file_limit = 20000;
  });
  RankRun::expect_one_voice(outcomes, "model.safetensors");
}

TEST(Ranks, AnErrorOfOneAloneEndsAllAndNamesIt) {
  RankRun run;
  fs::create_directories(run.folder / "one");
  fs::copy(run.folder / "data", run.folder / "one/data", fs::copy_options::recursive);
  Words words = kEndless;
  words.insert(words.end(), {"--data.directory", "data"});
  const std::vector<Outcome> outcomes = run.ranks(
      2, words,
      [&](const std::vector<pid_t>&) {
        wait_for_steps(run, 2);
        for (const auto& entry : fs::directory_iterator(run.folder / "one/data"))
          if (entry.path().extension() == ".bin") fs::resize_file(entry.path(), 300);
      },
      [&](int r, Words&, Streams& streams) { streams.folder = r == 0 ? run.folder / "" : run.folder / "one"; });
  RankRun::expect_one_voice(outcomes, "train: rank 1 on ");
  EXPECT_NE(outcomes[0].err.find(", step "), std::string::npos) << outcomes[0].err;
}

TEST(Ranks, ABuildWithoutMpiSaysSo) {
  if (mpi::built()) GTEST_SKIP() << "this one has it";
  const RankRun run;
  Streams streams;
  streams.environment = {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}};
  test::expect_one_line(execute(run.words({}), streams), "train: mpirun started several processes", "libopenmpi-dev");
  const Outcome alone = execute(run.words({}));
  EXPECT_EQ(alone.code, 0) << alone.err;
  EXPECT_NE(alone.out.find("ranks: 1; for mpirun: built without MPI"), std::string::npos) << alone.out;
}

}  // namespace
}  // namespace scfa

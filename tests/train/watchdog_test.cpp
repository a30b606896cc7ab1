#include "train/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <nlohmann/json.hpp>

#include "core/context.h"
#include "core/signals.h"
#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/config_io.h"

namespace scfa {
namespace {

void sleep_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// Work that never ends, within a limit.
[[noreturn]] void hang(const Watchdog::Limits& limits, Work work, int signal) {
  Watchdog watchdog(limits, [] {});
  watchdog.set_checkpoint("runs/x/checkpoint-00000010");
  Context ctx;
  const ProfileRange range(ctx, "attention_backward");
  watchdog.begin(work, "step 12");
  if (signal != 0) request_stop(signal);
  sleep_seconds(20);
  std::_Exit(77);
}

class WatchdogDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(WatchdogDeathTest, AStepThatHangsEndsTheProgramAndNamesTheOp) {
  EXPECT_EXIT(hang({0.2, 0}, Work::kStep, 0), testing::ExitedWithCode(1),
              "^train: step 12 has not ended after 0\\.[2-9]s \\(train.watchdog_seconds = 0.2; last op: "
              "attention_backward\\); ended without saving, the last checkpoint is runs/x/checkpoint-00000010\n$");
}

TEST_F(WatchdogDeathTest, SavingMayTakeFourTimesAsLong) {
  EXPECT_EXIT(hang({0.2, 0}, Work::kSaving, 0), testing::ExitedWithCode(1), "has not ended after (0\\.[89]|1\\.)");
}

TEST_F(WatchdogDeathTest, AfterASignalTheStepHasUntilItsLimit) {
  EXPECT_EXIT(hang({0, 0.2}, Work::kStep, SIGTERM), testing::ExitedWithCode(128 + SIGTERM),
              "step 12 has not ended 0\\.[2-9]s after signal 15 \\(train.stop_seconds = 0.2");
}

TEST_F(WatchdogDeathTest, ASaveAfterASignalIsNotCutShort) {
  const auto save = [] {
    Watchdog watchdog({0, 0.2}, [] {});
    const Watched watched(watchdog, Work::kSaving, "saving");
    request_stop(SIGTERM);
    sleep_seconds(0.8);
    std::_Exit(77);
  };
  EXPECT_EXIT(save(), testing::ExitedWithCode(77), "");
}

TEST(Watchdog, WorkThatGoesOnIsLeftAlone) {
  std::atomic<int> ticks{0};
  Watchdog watchdog({0.5, 0.5}, [&] { ++ticks; });
  for (int i = 0; i < 10; ++i) {
    const Watched watched(watchdog, Work::kStep, "step");
    sleep_seconds(0.1);
  }
  sleep_seconds(0.7);  // and nothing is under way
  EXPECT_GE(ticks, 5);
}

std::vector<std::string> train_on(const test::TinyRun& tiny, const Config& config, const char* watchdog_seconds) {
  test::write_text(tiny.folder / "tiny.json", to_json(config).dump());
  return {"train", "--config", tiny.folder / "tiny.json", "--train.watchdog_seconds", watchdog_seconds};
}

// Steps of a larger model, which take longer than a limit that is next to nothing.
TEST(Watchdog, TrainingEndsWhereAStepTakesTooLong) {
  const test::TinyRun tiny;
  Config config = tiny.config("dense");
  config.model.n_embd = 256;
  config.model.n_layer = 8;
  config.train.micro_batch_size = 12;
  config.train.steps = 1000;
  const test::Outcome outcome = test::execute(train_on(tiny, config, "1e-3"));
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  for (const char* part : {"has not ended after", "train.watchdog_seconds = 0.001", "last op: ", "checkpoint is none"})
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
}

// A process that was stopped (Ctrl-Z) has not hung. Steps have many micro-batches, so that one is under way then, and
// take much less than the limit, on a busy machine too.
TEST(Watchdog, TimeInWhichTheProcessIsStoppedDoesNotCount) {
  const test::TinyRun tiny;
  Config config = tiny.config("dense");
  config.train.batch_size = 40;
  config.train.micro_batch_size = 1;
  config.train.steps = 8;
  const test::Outcome outcome = test::execute(train_on(tiny, config, "3"), [&](pid_t pid) {
    EXPECT_TRUE(test::wait_until([&] { return !tiny.records(1).empty(); }));
    kill(pid, SIGSTOP);
    sleep_seconds(4);
    kill(pid, SIGCONT);
  });
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

}  // namespace
}  // namespace scfa

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "train/config.h"

namespace scfa {
namespace {

ScheduleConfig schedule(const char* name) {
  ScheduleConfig s;
  s.schedule = name;
  s.lr = 1e-3;
  return s;
}

// torch.optim.lr_scheduler.OneCycleLR(max_lr=1e-3, total_steps=15000, pct_start=0.02, div_factor=100,
// final_div_factor=0.05): the paper's schedule.
TEST(Schedule, OneCycleIsPyTorchs) {
  const ScheduleConfig s = schedule("onecycle");
  EXPECT_NEAR(learning_rate(s, 0, 15000), 1e-5, 1e-12);
  EXPECT_NEAR(learning_rate(s, 299, 15000), 1e-3, 1e-12);
  EXPECT_NEAR(learning_rate(s, 14999, 15000), 2e-4, 1e-12);
  const double half_up = 1e-3 + (1e-5 - 1e-3) / 2 * (1 + std::cos(std::numbers::pi * 150 / 299));
  EXPECT_NEAR(learning_rate(s, 150, 15000), half_up, 1e-12);
  const double down = 2e-4 + (1e-3 - 2e-4) / 2 * (1 + std::cos(std::numbers::pi * (5000.0 - 299) / (14999 - 299)));
  EXPECT_NEAR(learning_rate(s, 5000, 15000), down, 1e-12);
}

TEST(Schedule, WarmupThenCosineLinearOrConstant) {
  for (const char* name : {"cosine", "linear", "constant", "wsd"}) {
    ScheduleConfig s = schedule(name);
    s.warmup = 0.1;
    EXPECT_NEAR(learning_rate(s, 0, 100), 1e-4, 1e-12) << name;
    EXPECT_NEAR(learning_rate(s, 9, 100), 1e-3, 1e-12) << name;
    EXPECT_NEAR(learning_rate(s, 10, 100), 1e-3, 1e-12) << name;
    EXPECT_NEAR(learning_rate(s, 99, 100), name == std::string("constant") ? 1e-3 : 2e-4, 1e-12) << name;
  }
  EXPECT_NEAR(learning_rate(schedule("linear"), 50, 101), 1e-3 * (1 - 0.8 * 48 / 98), 1e-9);
}

TEST(Schedule, WsdIsStableThenDecays) {
  ScheduleConfig s = schedule("wsd");
  s.warmup = 0.1;
  s.decay = 0.2;
  EXPECT_EQ(learning_rate(s, 79, 100), 1e-3);
  EXPECT_NEAR(learning_rate(s, 89, 100), 1e-3 * (1 - 0.8 * 0.5), 1e-12);
}

TEST(Schedule, EveryStepIsFiniteEvenInTheShortestRuns) {
  for (const char* name : {"onecycle", "cosine", "linear", "constant", "wsd"})
    for (const double warmup : {0.0, 0.5, 1.0})
      for (const int64_t steps : {1, 2, 3, 10}) {
        ScheduleConfig s = schedule(name);
        s.warmup = warmup;
        s.decay = std::min(s.decay, 1 - warmup);
        for (int64_t step = 0; step < steps; ++step) {
          const double lr = learning_rate(s, step, steps);
          EXPECT_TRUE(std::isfinite(lr) && lr >= 0 && lr <= 1e-3 + 1e-12)
              << name << " " << warmup << " " << step << "/" << steps << " " << lr;
        }
      }
}

}  // namespace
}  // namespace scfa

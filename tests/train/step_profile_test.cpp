#include "train/step_profile.h"

#include <gtest/gtest.h>

#include "core/context.h"

namespace scfa {
namespace {

TEST(StepTimes, OneMicroBatchStandsForAllAndTheUpdateForItself) {
  const StepTimes times = times_of_step({{"linear_forward", {2, Category::kOther}},
                                         {"attention_forward", {3, Category::kAttention}},
                                         {"build_segments", {0.5, Category::kAttention}},
                                         {"adamw", {4, Category::kOptimizer}},
                                         {kExposed, {5, Category::kCommunication}}},
                                        10);
  EXPECT_EQ(
      times.seconds,
      (std::map<std::string, double>{
          {"linear_forward", 20}, {"attention_forward", 30}, {"build_segments", 5}, {"adamw", 4}, {kExposed, 5}}));
  EXPECT_EQ(times.attention, 35);
}

TEST(Profiler, TimesAddUpByNameAndKeepTheirCategory) {
  Context ctx;
  { const ProfileRange unheard(ctx, "before"); }
  ctx.profiler().collect(true);
  for (int i = 0; i < 3; ++i) const ProfileRange range(ctx, "op", Category::kAttention);
  { const ProfileRange range(ctx, "other"); }
  ctx.profiler().collect(false);
  ctx.profiler().add("op", Category::kAttention, 1);
  const ProfileTimes times = ctx.profiler().take();
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times.at("op").category, Category::kAttention);
  EXPECT_GE(times.at("op").seconds, 1);
  EXPECT_EQ(times.at("other").category, Category::kOther);
  EXPECT_TRUE(ctx.profiler().take().empty());
}

}  // namespace
}  // namespace scfa

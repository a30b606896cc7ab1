#include "train/step_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace scfa {
namespace {

// Steps up to `last` for which it holds.
template <class Holds>
std::vector<int64_t> steps_where(int64_t last, const Holds& holds) {
  std::vector<int64_t> steps;
  for (int64_t step = 0; step <= last; ++step)
    if (holds(step)) steps.push_back(step);
  return steps;
}

using Steps = std::vector<int64_t>;

Config config_of(int64_t steps) {
  Config config;
  config.train.steps = steps;
  return config;
}

TEST(StepPolicy, TrainsUntilTheLastStepOrASignal) {
  const StepPolicy policy(config_of(3));
  EXPECT_EQ(steps_where(5, [&](int64_t step) { return policy.trains(step, false); }), (Steps{0, 1, 2}));
  EXPECT_EQ(steps_where(5, [&](int64_t step) { return policy.trains(step, true); }), Steps());
}

TEST(StepPolicy, EvaluatesBeforeTheFirstStepAndEveryFewButNeverTwice) {
  Config config = config_of(10);
  config.eval.every = 4;
  const StepPolicy policy(config);
  const auto at = [](int64_t step) { return TrainingState{step, 0, {}}; };
  EXPECT_EQ(steps_where(9, [&](int64_t step) { return policy.evaluates(at(step)); }), (Steps{0, 4, 8}));
  EXPECT_FALSE(policy.evaluates({4, 0, 3.5}));
  config.eval.every = 0;
  EXPECT_EQ(steps_where(9, [&](int64_t step) { return StepPolicy(config).evaluates(at(step)); }), Steps());
}

TEST(StepPolicy, SavesByStepsOrTimeOrWhenAskedButNeverTwiceAtOneStep) {
  Config config = config_of(100);
  config.checkpoint.every = 5;
  config.checkpoint.minutes = 2;
  const StepPolicy policy(config);
  EXPECT_EQ(steps_where(12, [&](int64_t step) { return policy.saves(step, {0, 1}, false); }), (Steps{5, 10}));
  EXPECT_FALSE(policy.saves(7, {5, 119.9}, false));
  EXPECT_TRUE(policy.saves(7, {5, 120}, false));
  EXPECT_TRUE(policy.saves(7, {5, 1}, true));
  EXPECT_FALSE(policy.saves(10, {10, 1000}, true));
  config.checkpoint.every = 0;
  config.checkpoint.minutes = 0;
  EXPECT_EQ(steps_where(12, [&](int64_t step) { return StepPolicy(config).saves(step, {0, 1e9}, false); }), Steps());
}

TEST(StepPolicy, PrintsEveryFewStepsAndTheFirstAndLastOnes) {
  Config config = config_of(23);
  config.log.every = 10;
  const StepPolicy policy(config);
  EXPECT_EQ(steps_where(23, [&](int64_t step) { return step > 0 && policy.prints(step, 0); }), (Steps{1, 10, 20, 23}));
  EXPECT_EQ(steps_where(23, [&](int64_t step) { return step > 12 && policy.prints(step, 12); }), (Steps{13, 20, 23}));
  EXPECT_EQ(steps_where(23, [&](int64_t step) { return step > 0 && policy.profiles(step); }), (Steps{10, 20}));
}

TEST(StepPolicy, ComparesReplicasEveryFewStepsOrNever) {
  Config config = config_of(10);
  config.train.check_replicas = 3;
  const auto compared = [&](int64_t step) { return step > 0 && StepPolicy(config).compares_replicas(step); };
  EXPECT_EQ(steps_where(10, compared), (Steps{3, 6, 9}));
  config.train.check_replicas = 0;
  EXPECT_EQ(steps_where(10, compared), Steps());
}

TEST(StepPolicy, CountsWhatIsLeft) {
  Config config = config_of(10);
  config.eval.every = 4;
  const StepPolicy policy(config);
  EXPECT_EQ(policy.steps_after(1), 9);
  EXPECT_EQ(policy.evaluations_after(1), 3);  // after 4 and 8, and at the end
  EXPECT_EQ(policy.evaluations_after(10), 1);
  config.eval.every = 0;
  EXPECT_EQ(StepPolicy(config).evaluations_after(1), 1);
}

TEST(TrainingState, AnotherStepForgetsTheEvaluationOfTheLast) {
  TrainingState state{4, 400, 3.5};
  state.advance(100);
  EXPECT_EQ(state.step, 5);
  EXPECT_EQ(state.tokens, 500);
  EXPECT_FALSE(state.validation_loss);
}

}  // namespace
}  // namespace scfa

#include "train/overlap.h"

#include <gtest/gtest.h>

namespace scfa {
namespace {

TEST(OverlapPolicy, WhatTheConfigSaysIsNotTried) {
  for (const char* overlap : {"beside", "after"}) {
    OverlapPolicy policy(overlap);
    for (int step = 0; step < 20; ++step) {
      EXPECT_EQ(policy.beside(), overlap == std::string("beside"));
      EXPECT_FALSE(policy.note_step(1));
    }
  }
}

// Times as if each way took so long, once it is at work; what the trial has to pass over takes 100 s.
OverlapPolicy tried(double after, double beside) {
  OverlapPolicy policy("auto");
  int64_t in_a_row = 0;
  bool before = false;
  for (int64_t step = 0;; ++step) {
    EXPECT_LE(step, 2 * OverlapPolicy::kTriedSteps);
    const bool now = policy.beside();
    in_a_row = now == before ? in_a_row + 1 : 1;
    const int64_t passed_over = now ? 1 : 2;  // the first step of all loads kernels
    before = now;
    if (policy.note_step(in_a_row <= passed_over ? 100 : now ? beside : after)) return policy;
  }
}

TEST(OverlapPolicy, AutoKeepsTheFasterWay) {
  OverlapPolicy policy = tried(0.002, 0.003);
  EXPECT_FALSE(policy.beside_was_faster());
  policy.settle(policy.beside_was_faster());
  EXPECT_FALSE(policy.beside());
  EXPECT_EQ(policy.describe(), "gradients are added up after the backward pass: 2 ms a step after it, 3 ms beside it");
  policy = tried(0.003, 0.002);
  EXPECT_TRUE(policy.beside_was_faster());
  policy.settle(true);
  for (int step = 0; step < 20; ++step) {
    EXPECT_TRUE(policy.beside());
    EXPECT_FALSE(policy.note_step(1));
  }
}

TEST(OverlapPolicy, RanksFollowTheFirstWhateverTheyHaveMeasured) {
  OverlapPolicy policy = tried(0.003, 0.002);
  policy.settle(false);
  EXPECT_FALSE(policy.beside());
}

}  // namespace
}  // namespace scfa

#include "data/bigram.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/data_support.h"

namespace scfa {
namespace {

using testing::TemporaryFolder;

TEST(Bigram, KnowsWhatFollowsWhat) {
  const TemporaryFolder folder;
  std::vector<uint32_t> tokens;
  for (int i = 0; i < 20'000; ++i) tokens.push_back(i % 2 ? 7 : 5);
  testing::write_token_set(folder.file("set"), tokens, 6000, "bytes");
  const TokenSet set(folder.file("set"), Split::kTrain);
  const BigramLoss loss = measure_bigram(set, set);
  EXPECT_NEAR(loss.unigram, std::log(2.0), 0.02);
  EXPECT_LT(loss.bigram, 0.001);
  EXPECT_EQ(loss.tokens, 19'999);
}

TEST(Bigram, IsInterpolatedKneserNey) {
  const TemporaryFolder folder;
  testing::write_token_set(folder.file("train"), {5, 7, 5, 7, 5, 8}, 100, "bytes");
  testing::write_token_set(folder.file("val"), {5, 9, 5, 7}, 100, "bytes");
  const BigramLoss loss =
      measure_bigram(TokenSet(folder.file("train"), Split::kTrain), TokenSet(folder.file("val"), Split::kTrain));
  // Pairs 57 twice, 75 twice, 58 once: discount 1 / (1 + 2 * 2). Each of 5, 7, 8 follows one other token.
  const double discount = 0.2, seen = 2.0 / (3 + 257), unseen = 1.0 / (3 + 257);
  const double p59 = discount * 2 * unseen / 3, p95 = seen, p57 = (2 - discount + discount * 2 * seen) / 3;
  EXPECT_NEAR(loss.bigram, -(std::log(p59) + std::log(p95) + std::log(p57)) / 3, 1e-12);
  const double u9 = 1.0 / (6 + 257), u5 = 4.0 / (6 + 257), u7 = 3.0 / (6 + 257);
  EXPECT_NEAR(loss.unigram, -(std::log(u9) + std::log(u5) + std::log(u7)) / 3, 1e-12);
}

}  // namespace
}  // namespace scfa

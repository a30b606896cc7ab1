#include "kernels/attention/patterns/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

namespace scfa {
namespace {

constexpr int kNone = 99;

// The ids kept of scores that are offered in order, with ids 0, 1, ...
template <int kMost>
std::vector<int> kept(const std::vector<float>& scores, int k = kMost) {
  TopK<kMost> best(kNone);
  for (size_t i = 0; i < scores.size(); ++i) best.offer(scores[i], static_cast<int>(i), k);
  return {best.id, best.id + kMost};
}

TEST(TopK, KeepsTheHighestBestFirst) {
  EXPECT_EQ(kept<1>({2, 5, 3}), std::vector<int>({1}));
  EXPECT_EQ(kept<3>({2, 5, 3, 1, 4}), std::vector<int>({1, 4, 2}));
  EXPECT_EQ(kept<3>({5, 4, 3, 2, 1}), std::vector<int>({0, 1, 2}));
  EXPECT_EQ(kept<3>({1, 2, 3, 4, 5}), std::vector<int>({4, 3, 2}));
}

TEST(TopK, EqualScoresStayInTheOrderOfOffers) {
  EXPECT_EQ(kept<3>({1, 1, 1, 1}), std::vector<int>({0, 1, 2}));
  EXPECT_EQ(kept<3>({1, 2, 1, 2}), std::vector<int>({1, 3, 0}));
  EXPECT_EQ(kept<2>({3, 1, 2, 2}), std::vector<int>({0, 2}));
}

TEST(TopK, PlacesWithoutAScoreHaveNone) {
  EXPECT_EQ(kept<3>({}), std::vector<int>({kNone, kNone, kNone}));
  EXPECT_EQ(kept<3>({7}), std::vector<int>({0, kNone, kNone}));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(kept<3>({-kInfinity, std::numeric_limits<float>::quiet_NaN(), -1}), std::vector<int>({2, kNone, kNone}));
}

TEST(TopK, KeepsFewerIfToldSo) {
  EXPECT_EQ(kept<3>({1, 3, 2}, 2), std::vector<int>({1, 2, kNone}));
  EXPECT_EQ(kept<3>({1, 3, 2}, 0), std::vector<int>({kNone, kNone, kNone}));
}

TEST(TopK, IsTheBeginningOfAStableSort) {
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::vector<float> scores(5 + random() % 20);
    for (float& score : scores) score = static_cast<float>(random() % 8);
    std::vector<int> order(scores.size());
    for (size_t j = 0; j < order.size(); ++j) order[j] = static_cast<int>(j);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)]; });
    EXPECT_EQ(kept<4>(scores), std::vector<int>(order.begin(), order.begin() + 4));
  }
}

}  // namespace
}  // namespace scfa

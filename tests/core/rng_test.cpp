#include "core/rng.h"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

namespace scfa {
namespace {

std::vector<uint32_t> words(const Random4& r) {
  return {r.v[0], r.v[1], r.v[2], r.v[3]};
}

// The published vectors for philox4x32-10 (Random123, kat_vectors).
TEST(Rng, PhiloxKnownAnswers) {
  using Words = std::vector<uint32_t>;
  EXPECT_EQ(words(philox4x32(0, {{0, 0, 0, 0}})), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(philox4x32(~uint64_t{0}, {{~0u, ~0u, ~0u, ~0u}})),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(philox4x32(0x299f31d0a4093822, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}})),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, EveryCoordinateMatters) {
  using Draw = std::tuple<uint64_t, Purpose, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>;
  const std::vector<Draw> draws = {
      {7, Purpose::kInit, 0, 0, 0, 0, 0},          {7 + (uint64_t{1} << 32), Purpose::kInit, 0, 0, 0, 0, 0},
      {8, Purpose::kInit, 0, 0, 0, 0, 0},          {7, Purpose::kDropKey, 0, 0, 0, 0, 0},
      {7, Purpose::kInit, 1, 0, 0, 0, 0},          {7, Purpose::kInit, kEvaluationStep, 0, 0, 0, 0},
      {7, Purpose::kInit, 0, 1, 0, 0, 0},          {7, Purpose::kInit, 0, 65535, 0, 0, 0},
      {7, Purpose::kInit, 0, 0, 1, 0, 0},          {7, Purpose::kInit, 0, 0, 65535, 0, 0},
      {7, Purpose::kInit, 0, 0, 0, 1, 0},          {7, Purpose::kInit, 0, 0, 0, (1u << 24) - 1, 0},
      {7, Purpose::kInit, 0, 0, 0, 0, 0xFFFFFFFF}, {7, Purpose::kInit, 0, 0, 0, 0, 1}};
  std::set<std::vector<uint32_t>> seen;
  for (const auto& [seed, purpose, step, layer, head, sample, index] : draws)
    seen.insert(words(random4(seed, purpose, step, layer, head, sample, index)));
  EXPECT_EQ(seen.size(), draws.size());
}

TEST(Rng, UniformStaysBelowOne) {
  EXPECT_EQ(uniform(0), 0.0f);
  EXPECT_EQ(uniform(0xFFFFFFFF), 1.0f - 0x1p-24f);
  EXPECT_EQ(uniform(0x80000000), 0.5f);
}

TEST(Rng, NormalsHaveTheMomentsOfNormals) {
  constexpr int kPairs = 200000;
  double sum = 0, square = 0, fourth = 0, product = 0;
  for (uint32_t i = 0; i < kPairs; ++i) {
    const Random4 bits = random4(3, Purpose::kInit, 0, 0, 0, 0, i);
    float x, y;
    normal2(bits.v[0], bits.v[1], x, y);
    ASSERT_TRUE(std::isfinite(x) && std::isfinite(y));
    for (const double v : {static_cast<double>(x), static_cast<double>(y)}) {
      sum += v;
      square += v * v;
      fourth += v * v * v * v;
    }
    product += static_cast<double>(x) * static_cast<double>(y);
  }
  // Five standard errors of each mean; the fourth power of a normal has variance 96.
  const double n = 2.0 * kPairs, error = 5 / std::sqrt(n);
  EXPECT_NEAR(sum / n, 0, error);
  EXPECT_NEAR(square / n, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth / n, 3, error * std::sqrt(96.0));
  EXPECT_NEAR(product / kPairs, 0, 5 / std::sqrt(static_cast<double>(kPairs)));
}

TEST(Rng, NormalsAreFiniteAtTheEdges) {
  for (const uint32_t a : {0u, 255u, 0xFFFFFFFFu})
    for (const uint32_t b : {0u, 0x80000000u, 0xFFFFFFFFu}) {
      float x, y;
      normal2(a, b, x, y);
      EXPECT_TRUE(std::isfinite(x) && std::isfinite(y)) << a << " " << b;
    }
}

}  // namespace
}  // namespace scfa

#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

// Kept rows of the pattern as 1 and dropped ones as 0, (B, H, T).
struct Kept {
  std::vector<double> q, k;
  Kept(double rate, int64_t B, int64_t T, int64_t H, Draw draw = {}) {
    const Array rows({B, T, H, 1});
    draw.q = rows;
    const ChosenSegments chosen(drop_pattern(rate), draw);
    q = bits(chosen.q);
    k = bits(chosen.k);
  }

 private:
  static std::vector<double> bits(const Array& segment) {
    std::vector<double> kept;
    for (const double id : segment.values()) {
      EXPECT_TRUE(id == 0.0 || id == kNoSegment);
      kept.push_back(id == 0.0);
    }
    return kept;
  }
};

double mean(const std::vector<double>& x) {
  double total = 0.0;
  for (const double v : x) total += v;
  return total / static_cast<double>(x.size());
}

TEST(DropPattern, KeepsTheShareItShould) {
  for (const double rate : {0.1, 0.3, 0.5, 0.7, 0.99}) {
    const Kept kept(rate, 4, 5000, 5);
    const double error = 4 * std::sqrt(rate * (1 - rate) / 100000);  // four standard deviations
    EXPECT_NEAR(mean(kept.q), 1 - rate, error) << rate;
    EXPECT_NEAR(mean(kept.k), 1 - rate, error) << rate;
    EXPECT_NEAR(dot(kept.q, kept.k) / 100000, (1 - rate) * (1 - rate), error) << "queries and keys are independent";
  }
}

TEST(DropPattern, NoneAndAll) {
  const Kept none(0.0, 2, 1000, 2), all(1.0, 2, 1000, 2);
  EXPECT_EQ(mean(none.q), 1.0);
  EXPECT_EQ(mean(none.k), 1.0);
  EXPECT_EQ(mean(all.q), 0.0);
  EXPECT_EQ(mean(all.k), 0.0);
}

// Agreement of independent halves is a half, of equal ones all.
double agreement(const std::vector<double>& a, const std::vector<double>& b) {
  double same = 0.0;
  for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
  return same / static_cast<double>(a.size());
}

TEST(DropPattern, EveryCoordinateDrawsAnew) {
  const Draw base;
  const Kept kept(0.5, 1, 10000, 1, base);
  std::vector<Draw> others(5, base);
  others[0].seed = 99;
  others[1].step = 99;
  others[2].layer = 99;
  others[3].samples = {99};
  others[4].first_position = 1;
  for (size_t i = 0; i < others.size(); ++i) {
    const Kept other(0.5, 1, 10000, 1, others[i]);
    EXPECT_NEAR(agreement(kept.q, other.q), 0.5, 0.02) << i;
    EXPECT_NEAR(agreement(kept.k, other.k), 0.5, 0.02) << i;
  }
  const Kept heads(0.5, 1, 10000, 2);
  const auto half = heads.q.begin() + 10000;
  EXPECT_NEAR(agreement({heads.q.begin(), half}, {half, heads.q.end()}), 0.5, 0.02);
  EXPECT_EQ(Kept(0.5, 1, 10000, 1, base).q, kept.q);
}

TEST(DropPattern, IsAFunctionOfThePosition) {
  const Kept whole(0.4, 1, 200, 1);
  for (const int64_t first : {0, 1, 37, 38, 39, 40}) {  // four positions share a draw: every remainder
    for (const int64_t T : {1, 5, 100}) {
      Draw draw;
      draw.first_position = first;
      const Kept part(0.4, 1, T, 1, draw);
      EXPECT_EQ(part.q, (std::vector<double>(whole.q.begin() + first, whole.q.begin() + first + T))) << first;
      EXPECT_EQ(part.k, (std::vector<double>(whole.k.begin() + first, whole.k.begin() + first + T))) << first;
    }
  }
}

TEST(DropPattern, SampleDecidesNotItsPlaceInTheBatch) {
  const int64_t T = 300, H = 2;
  const Kept all(0.4, 4, T, H);  // samples 0, 1, 2, 3
  Draw draw;
  draw.samples = {3, 1};
  const Kept two(0.4, 2, T, H, draw);
  const auto sample = [&](const std::vector<double>& x, int64_t b) {
    return std::vector<double>(x.begin() + b * H * T, x.begin() + (b + 1) * H * T);
  };
  EXPECT_EQ(sample(two.q, 0), sample(all.q, 3));
  EXPECT_EQ(sample(two.q, 1), sample(all.q, 1));
  EXPECT_EQ(sample(two.k, 0), sample(all.k, 3));
  EXPECT_NE(sample(two.q, 0), sample(two.q, 1));
}

}  // namespace
}  // namespace scfa::test

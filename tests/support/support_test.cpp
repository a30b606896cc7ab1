// The test kit itself: a check that cannot fail checks nothing.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"

namespace scfa::test {
namespace {

TEST(Support, Bf16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bf16(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(from_bf16(to_bf16(value))));
    else
      ASSERT_EQ(to_bf16(value), bits);
  }
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 0x1p-8f)), 1.0f);                // halfway: to the even neighbour below
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);  // halfway: to the even neighbour above
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 0x1.02p-8f)), 1.0f + 0x1p-7f);
  EXPECT_TRUE(std::isinf(from_bf16(to_bf16(std::numeric_limits<float>::max()))));
}

TEST(Support, GuardBandsCatchWrites) {
  EXPECT_NONFATAL_FAILURE(
      {
        Array array({3});
        array.as<float>()[3] = 0.0f;
      },
      "written past f32[3]");
  EXPECT_NONFATAL_FAILURE(
      {
        Array array({3});
        array.as<float>()[-1] = 0.0f;
      },
      "written before the start of f32[3]");
}

TEST(Support, ArraysStartPoisoned) {
  Array array({5}), ids(DType::kU16, {2});
  EXPECT_TRUE(array.poisoned());
  for (const double x : array.values()) EXPECT_TRUE(std::isnan(x));
  EXPECT_EQ(ids.values(), (std::vector<double>{0xFFFF, 0xFFFF}));
  array.as<float>()[4] = 1.0f;
  EXPECT_FALSE(array.poisoned());
}

TEST(Support, CloseSeesWhatIsWrong) {
  const std::vector<double> want(1000, 1.0);
  std::vector<double> got = want;
  EXPECT_TRUE(close(got, want, 1e-9));
  got[500] += 1e-3;
  EXPECT_TRUE(close(got, want, 2e-4));
  EXPECT_FALSE(close(got, want, 5e-5));  // one element far off, though the norm is fine
  got[500] = NAN;
  EXPECT_FALSE(close(got, want, 1.0));
  got[500] = INFINITY;
  EXPECT_FALSE(close(got, want, 1.0));
  EXPECT_TRUE(close({INFINITY, 1.0}, {INFINITY, 1.0}, 1e-9));
  EXPECT_FALSE(close({-INFINITY}, {INFINITY}, 1.0));
  EXPECT_FALSE(close({1e-30}, {0.0}, 1.0));
  EXPECT_TRUE(close({1e-7}, {0.0}, 1e-6, 1.0));
  EXPECT_FALSE(close({1.0, 2.0}, {1.0}, 1.0));
}

TEST(Support, NumericGradient) {
  std::vector<double> x = {0.5, -2.0, 3.0};
  const auto f = [&] { return std::sin(x[0]) + x[1] * x[1] * x[2]; };
  EXPECT_TRUE(close(numeric_gradient(f, x), {std::cos(0.5), -12.0, 4.0}, 1e-9));
  EXPECT_EQ(x, (std::vector<double>{0.5, -2.0, 3.0}));
}

}  // namespace
}  // namespace scfa::test

#include "kernels/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace scfa::cpu {
namespace {

constexpr double kUlps = 1.5;  // without FMA; with it, 1
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The distance of two floats next to the exact value.
double ulp(double exact) {
  const auto f = static_cast<float>(std::fabs(exact));
  return static_cast<double>(std::nextafter(f, kInfinity)) - static_cast<double>(f);
}

// The largest error over the range, in units in the last place of the exact result.
template <class Got, class Exact>
double worst_ulp(const Got& got, const Exact& exact, float from, float to, int steps = 400000) {
  double worst = 0.0;
  for (int i = 0; i <= steps; ++i) {
    const auto x = static_cast<float>(from + (static_cast<double>(to) - from) * i / steps);
    const double want = exact(static_cast<double>(x));
    worst = std::max(worst, std::fabs(static_cast<double>(got(x)) - want) / ulp(want));
  }
  return worst;
}

TEST(VectorMath, Exp2) {
  const auto exact = [](double x) { return std::exp2(x); };
  EXPECT_LT(worst_ulp(vexp2, exact, -126.0f, 127.49f), kUlps);
  EXPECT_LT(worst_ulp(vexp2, exact, -1.0f, 1.0f), kUlps);
  for (int n = -126; n <= 127; ++n) EXPECT_EQ(vexp2(static_cast<float>(n)), std::ldexp(1.0f, n));
}

TEST(VectorMath, Exp) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(worst_ulp(vexp, exact, -87.0f, 88.3f), kUlps);
  EXPECT_LT(worst_ulp(vexp, exact, -1.0f, 1.0f), kUlps);
  EXPECT_EQ(vexp(0.0f), 1.0f);
}

TEST(VectorMath, Erf) {
  const auto exact = [](double x) { return std::erf(x); };
  EXPECT_LT(worst_ulp(verf, exact, -5.0f, 5.0f), kUlps);
  EXPECT_LT(worst_ulp(verf, exact, 1e-30f, 1e-3f), kUlps);
  EXPECT_LT(worst_ulp(verf, exact, -60.0f, 60.0f), kUlps);
  EXPECT_EQ(verf(0.0f), 0.0f);
}

TEST(VectorMath, Tanh) {
  double worst = 0.0;
  for (int i = -400000; i <= 400000; ++i) {
    const float x = static_cast<float>(i) * 5e-5f;
    worst = std::max(worst, std::fabs(static_cast<double>(vtanh(x)) - std::tanh(static_cast<double>(x))));
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(VectorMath, BeyondTheRange) {
  for (const float x : {-126.5f, -1000.0f, -3e38f, -kInfinity}) EXPECT_EQ(vexp2(x), 0x1p-126f) << x;
  for (const float x : {127.5f, 128.0f, 1e4f, 3e38f, kInfinity}) EXPECT_EQ(vexp2(x), kInfinity) << x;
  for (const float x : {-87.5f, -1000.0f, -3e38f, -kInfinity}) EXPECT_EQ(vexp(x), vexp(-87.0f)) << x;
  for (const float x : {88.4f, 89.0f, 1e4f, 3e38f, kInfinity}) EXPECT_EQ(vexp(x), kInfinity) << x;
  for (const float x : {20.0f, 1e10f, 3e38f, kInfinity}) {
    EXPECT_EQ(verf(x), 1.0f) << x;
    EXPECT_EQ(verf(-x), -1.0f) << x;
    EXPECT_EQ(vtanh(x), 1.0f) << x;
    EXPECT_EQ(vtanh(-x), -1.0f) << x;
  }
}

TEST(VectorMath, NanStaysNan) {
  EXPECT_TRUE(std::isnan(vexp2(kNan)));
  EXPECT_TRUE(std::isnan(vexp(kNan)));
  EXPECT_TRUE(std::isnan(vtanh(kNan)));
  EXPECT_TRUE(std::isnan(verf(kNan)));
}

}  // namespace
}  // namespace scfa::cpu

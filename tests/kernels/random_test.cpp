#include "kernels/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/array.h"
#include "support/expect_error.h"

namespace scfa {
namespace {

using test::Array;

TEST(FillNormal, HasTheMomentsOfANormalAndDependsOnAllItIsGiven) {
  Context ctx;
  constexpr int64_t n = 200001;
  Array x(DType::kF32, {n}), again(DType::kF32, {n}), seed(DType::kF32, {n}), sample(DType::kF32, {n});
  fill_normal(ctx, x, 1, 0);
  fill_normal(ctx, again, 1, 0);
  fill_normal(ctx, seed, 2, 0);
  fill_normal(ctx, sample, 1, 1);
  EXPECT_TRUE(x.same_bits(again));
  const std::vector<double> values = x.values(), of_seed = seed.values(), of_sample = sample.values();
  double moments[4] = {}, with_seed = 0, with_sample = 0, with_next = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    const double v = values[at];
    double power = 1;
    for (double& moment : moments) moment += (power *= v) / n;
    with_seed += v * of_seed[at] / n;
    with_sample += v * of_sample[at] / n;
    if (i > 0) with_next += v * values[at - 1] / n;
  }
  const double tolerance = 5 / std::sqrt(static_cast<double>(n));  // five standard deviations of the mean
  EXPECT_NEAR(moments[0], 0, tolerance);
  EXPECT_NEAR(moments[1], 1, 1.5 * tolerance);
  EXPECT_NEAR(moments[2], 0, 4 * tolerance);
  EXPECT_NEAR(moments[3], 3, 10 * tolerance);
  for (const double correlation : {with_seed, with_sample, with_next}) EXPECT_NEAR(correlation, 0, tolerance);
}

TEST(FillNormal, WantsFloats) {
  Context ctx;
  Array ids(DType::kI32, {4});
  test::expect_error([&] { fill_normal(ctx, ids, 1, 0); }, {"fill_normal", "i32"});
  test::expect_error([&] { fill_normal(ctx, {}, 1, 0); }, {"fill_normal", "empty"});
}

}  // namespace
}  // namespace scfa

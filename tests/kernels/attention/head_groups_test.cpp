#include "kernels/attention/head_groups.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/array.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

// Sums of consecutive heads, in double.
std::vector<double> sums(const std::vector<double>& from, int64_t group, int64_t D) {
  std::vector<double> to(from.size() / static_cast<size_t>(group));
  for (size_t i = 0; i < from.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    to[static_cast<size_t>(at / D / group * D + at % D)] += from[i];
  }
  return to;
}

TEST(HeadGroups, EqualsTheFormula) {
  Context ctx;
  for (const int64_t group : {1, 2, 3, 7})
    for (const int64_t D : {1, 5, 64}) {
      const Array from = normal({2, 5, 3 * group, D}, 1), wide({2, 5, 4, 3, D});
      const Tensor to = wide.view().select(1, 2);  // (2, 5, 3, D), strided
      sum_head_groups(ctx, to, from);
      EXPECT_TRUE(close(values(to), sums(from.values(), group, D), 1e-6)) << group << ", D " << D;
      for (const int64_t part : {0, 2, 3})
        for (const double x : values(wide.view().select(part, 2))) ASSERT_TRUE(std::isnan(x));  // as it was
    }
}

TEST(HeadGroups, WrongShapesAreNamed) {
  Context ctx;
  const Array two({1, 3, 2, 4}), four({1, 3, 4, 4}), three({1, 3, 3, 4}), wide({1, 3, 4, 5});
  EXPECT_TRUE(fails_naming([&] { sum_head_groups(ctx, two, three); }, {"sum_head_groups: from ", "3, 4]"}));
  EXPECT_TRUE(fails_naming([&] { sum_head_groups(ctx, two, wide); }, {"sum_head_groups: from ", "4, 5]"}));
  EXPECT_TRUE(fails_naming([&] { sum_head_groups(ctx, {}, four); }, {"sum_head_groups: to ", "empty"}));
  EXPECT_TRUE(fails_naming([&] { sum_head_groups(ctx, four, two); }, {"sum_head_groups: from "}));
}

class HeadGroupsGpu : public GpuTest {};

TEST_F(HeadGroupsGpu, EqualsTheFormula) {
  Context ctx(Device::kGpu);
  for (const int64_t group : {2, 3, 7})
    for (const int64_t D : {8, 64, 72, 128}) {
      Array from(DType::kBF16, {2, 37, 3 * group, D});
      from.fill_normal(1);
      const Array wide(DType::kBF16, {2, 37, 4, 3, D});
      const GpuCopy from_gpu(ctx, from), wide_gpu(ctx, wide);
      const Tensor whole = wide_gpu;
      sum_head_groups(ctx, whole.select(1, 2), from_gpu);
      wide_gpu.download(wide);
      EXPECT_TRUE(close(values(wide.view().select(1, 2)), sums(from.values(), group, D), 4e-3)) << group << ", D " << D;
      for (const int64_t part : {0, 2, 3})
        for (const double x : values(wide.view().select(part, 2))) ASSERT_TRUE(std::isnan(x));
    }
}

}  // namespace
}  // namespace scfa::test

#include "kernels/linear/gelu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"

namespace scfa::test {
namespace {

double reference(double x, Gelu kind) {
  if (kind == Gelu::kErf) return 0.5 * x * (1.0 + std::erf(x * std::sqrt(0.5)));
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

// From far left to far right, with a dense middle and both zeros.
Array inputs(int64_t n) {
  Array x = normal({n}, 1, 3.0);
  const float special[] = {0.0f, -0.0f, 1e-30f, -30.0f, 30.0f, 1e4f, -1e4f};
  for (int64_t i = 0; i < std::min<int64_t>(n / 2, std::size(special)); ++i) x.as<float>()[i] = special[i];
  return x;
}

class GeluTest : public testing::TestWithParam<Gelu> {};
INSTANTIATE_TEST_SUITE_P(Kinds, GeluTest, testing::Values(Gelu::kErf, Gelu::kTanh),
                         [](const auto& kind) { return kind.param == Gelu::kErf ? "Erf" : "Tanh"; });

TEST_P(GeluTest, ForwardIsTheFormula) {
  Context ctx;
  for (const int64_t n : {1, 65, 1000, 100003}) {
    const Array x = inputs(n);
    Array y({n});
    gelu_forward(ctx, y, x, {}, GetParam());
    for (int64_t i = 0; i < n; ++i) {
      const double v = x.as<float>()[i];
      // 1 + erf has an error of a few units of 1 (6e-8), which the factor x / 2 carries along.
      ASSERT_NEAR(y.as<float>()[i], reference(v, GetParam()), 2.5e-7 * std::max(1.0, std::abs(v))) << v;
    }
  }
}

TEST_P(GeluTest, BackwardIsTheDerivative) {
  Context ctx;
  for (const int64_t n : {1, 65, 1000}) {
    const Array x = normal({n}, 1, 2.0), dy = normal({n}, 2);
    Array dx({n});
    gelu_backward(ctx, dx, {}, dy, x, {}, GetParam());
    std::vector<double> want = dy.values();
    for (int64_t i = 0; i < n; ++i) {
      const double v = x.as<float>()[i], h = 1e-5;
      want[static_cast<size_t>(i)] *= (reference(v + h, GetParam()) - reference(v - h, GetParam())) / (2 * h);
    }
    EXPECT_TRUE(close(dx, want, 1e-6)) << n;
  }
}

TEST_P(GeluTest, BackwardFarOutIsZeroOrOne) {
  Context ctx;
  Array x({6}), dy({6}), dx({6});
  x.assign({-1e4, -100, -20, 20, 100, 1e4});
  dy.fill(2);
  gelu_backward(ctx, dx, {}, dy, x, {}, GetParam());
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(dx.as<float>()[i], i < 3 ? 0.0 : 2.0, 1e-6) << i;
}

TEST_P(GeluTest, GradientMayReplaceItsInput) {
  Context ctx;
  const Array x = normal({1000}, 1), dy = normal({1000}, 2);
  Array dx({1000}), in_place = normal({1000}, 2);
  gelu_backward(ctx, dx, {}, dy, x, {}, GetParam());
  gelu_backward(ctx, in_place, {}, in_place, x, {}, GetParam());
  EXPECT_TRUE(in_place.same_bits(dx));
}

TEST_P(GeluTest, NanStaysNan) {
  Context ctx;
  Array x({65}), y({65}), dx({65});
  x.fill(1);
  x.as<float>()[64] = std::numeric_limits<float>::quiet_NaN();
  gelu_forward(ctx, y, x, {}, GetParam());
  gelu_backward(ctx, dx, {}, x, x, {}, GetParam());
  for (int i = 0; i < 65; ++i) {
    EXPECT_EQ(std::isnan(y.as<float>()[i]), i == 64);
    EXPECT_EQ(std::isnan(dx.as<float>()[i]), i == 64);
  }
}

TEST_P(GeluTest, NumberOfThreadsDoesNotMatter) {
  Context ctx;
  const int64_t n = 10007;
  const Array x = normal({n}, 1), dy = normal({n}, 2);
  Array y({n}), dx({n}), y_serial({n}), dx_serial({n});
  gelu_forward(ctx, y, x, {}, GetParam());
  gelu_backward(ctx, dx, {}, dy, x, {}, GetParam());
  const Threads one(1);
  gelu_forward(ctx, y_serial, x, {}, GetParam());
  gelu_backward(ctx, dx_serial, {}, dy, x, {}, GetParam());
  // Where the loop is cut decides which elements its scalar ends take, so the last bits may differ, no more.
  EXPECT_TRUE(close(y_serial, y.values(), 1e-7));
  EXPECT_TRUE(close(dx_serial, dx.values(), 1e-7));
}

TEST(Gelu, WrongShapesAreNamed) {
  Context ctx;
  const Array x({3, 4}), other({4, 3}), integers(DType::kI32, {3, 4});
  EXPECT_TRUE(fails_naming([&] { gelu_forward(ctx, x, other, {}, Gelu::kErf); }, {"gelu_forward: x ", "f32[4, 3]"}));
  EXPECT_TRUE(fails_naming([&] { gelu_forward(ctx, x, {}, {}, Gelu::kErf); }, {"gelu_forward: x "}));
  EXPECT_TRUE(fails_naming([&] { gelu_forward(ctx, x, integers, {}, Gelu::kErf); }, {"gelu_forward: x ", "i32"}));
  EXPECT_TRUE(fails_naming([&] { gelu_backward(ctx, x, {}, other, x, {}, Gelu::kErf); }, {"gelu_backward: dy "}));
  EXPECT_TRUE(fails_naming([&] { gelu_backward(ctx, x, {}, x, other, {}, Gelu::kErf); }, {"gelu_backward: x "}));
}

}  // namespace
}  // namespace scfa::test

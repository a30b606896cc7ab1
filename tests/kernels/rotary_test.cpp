#include "kernels/rotary.h"

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/formulas.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;
constexpr double kTheta = 10000.0;

Vector reference(const Vector& x, int64_t T, int64_t H, int64_t D, int64_t first, int direction) {
  return rotated(x, T, H, D, first, kTheta, direction);
}

TEST(Rotary, TurnsPairsByPosition) {
  Context ctx;
  const int64_t shapes[][4] = {{1, 1, 1, 2}, {2, 65, 3, 10}, {1, 1000, 1, 64}, {2, 3, 2, 512}};
  for (const auto& [B, T, H, D] : shapes)
    for (const int64_t first : {0, 777})
      for (const int direction : {1, -1}) {
        Array x = normal({B, T, H, D}, 1);
        const Vector want = reference(x.values(), T, H, D, first, direction);
        rotary(ctx, x, first, kTheta, direction);
        EXPECT_TRUE(close(x, want, 2e-7)) << T << " " << D << " from " << first;
      }
}

TEST(Rotary, ThereAndBack) {
  Context ctx;
  Array x = normal({2, 65, 3, 16}, 1);
  const Vector before = x.values();
  rotary(ctx, x, 5, kTheta, 1);
  EXPECT_FALSE(close(x, before, 0.1));
  rotary(ctx, x, 5, kTheta, -1);
  EXPECT_TRUE(close(x, before, 2e-7));
}

TEST(Rotary, BackIsTheDerivative) {
  Context ctx;
  const int64_t T = 7, H = 2, D = 6;
  Array gradient = normal({1, T, H, D}, 2);
  const Vector dy = gradient.values();
  Vector x = normal({1, T, H, D}, 1).values();
  const Vector want = numeric_gradient([&] { return dot(dy, reference(x, T, H, D, 3, 1)); }, x);
  rotary(ctx, gradient, 3, kTheta, -1);
  EXPECT_TRUE(close(gradient, want, 1e-6));
}

TEST(Rotary, OtherPartsOfTheTensorStay) {
  Context ctx;
  const int64_t B = 2, T = 9, H = 3, D = 8;
  Array qkv = normal({B, T, 3, H, D}, 1);
  const Tensor k = part_of(qkv, 1);
  const Vector q_before = values(part_of(qkv, 0)), v_before = values(part_of(qkv, 2));
  const Vector want = reference(values(k), T, H, D, 0, 1);
  rotary(ctx, k, 0, kTheta, 1);
  EXPECT_TRUE(close(k, want, 2e-7));
  EXPECT_EQ(values(part_of(qkv, 0)), q_before);
  EXPECT_EQ(values(part_of(qkv, 2)), v_before);
}

TEST(Rotary, HeadsMayLieAnywhere) {
  Context ctx;
  const Array heads = normal({2, 3, 9, 8}, 1);
  const Tensor x = by_position(heads);
  const Vector want = reference(values(x), 9, 3, 8, 5, 1);
  rotary(ctx, x, 5, kTheta, 1);
  EXPECT_TRUE(close(x, want, 2e-7));
}

// A token fed alone at its position, as generation does, is turned as it is within the sequence.
TEST(Rotary, PositionDecidesNotTheCut) {
  Context ctx;
  Array whole = normal({1, 40, 2, 8}, 1), parts = normal({1, 40, 2, 8}, 1);
  rotary(ctx, whole, 0, kTheta, 1);
  for (int64_t t = 0; t < 40; ++t) {
    const Tensor row = parts.view().reshape({40, 2, 8}).slice(t, 1).reshape({1, 1, 2, 8});
    rotary(ctx, row, t, kTheta, 1);
  }
  EXPECT_TRUE(parts.same_bits(whole));
}

TEST(Rotary, WrongShapesAreNamed) {
  Context ctx;
  const Array odd({1, 2, 1, 3}), flat({2, 4}), wide({1, 1, 1, 514}), x({1, 2, 1, 4});
  for (const Array* bad : {&odd, &flat})
    EXPECT_TRUE(fails_naming([&] { rotary(ctx, *bad, 0, kTheta, 1); }, {"rotary: x "}));
  EXPECT_TRUE(fails_naming([&] { rotary(ctx, {}, 0, kTheta, 1); }, {"rotary: x "}));
  EXPECT_TRUE(fails_naming([&] { rotary(ctx, x, 0, kTheta, 2); }, {"rotary: direction ", "2"}));
  EXPECT_TRUE(fails_naming([&] { rotary(ctx, wide, 0, kTheta, 1); }, {"rotary", "514", "512"}));
}

}  // namespace
}  // namespace scfa::test

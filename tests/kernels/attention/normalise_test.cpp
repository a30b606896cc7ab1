#include "kernels/attention/normalise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"
#include "support/formulas.h"

namespace scfa::test {
namespace {

TEST(NormaliseKeys, RowsHaveLengthOne) {
  Context ctx;
  const int64_t shapes[][4] = {{1, 1, 1, 1}, {2, 65, 3, 16}, {1, 1000, 2, 64}};
  for (const auto& [B, T, H, D] : shapes) {
    const Array qv = normal({B, T, 2, H, D}, 1, 3.0);
    const Tensor q = part_of(qv, 0);  // read where the GEMM left it, beside the values
    Array k({B, T, H, D}), inverse_norm({B, T, H});
    normalise_keys(ctx, k, inverse_norm, q);
    const std::vector<double> x = values(q), inverse = inverse_norm.values();
    EXPECT_TRUE(close(k, normalised(x, D), 2e-7));
    for (size_t row = 0; row < inverse.size(); ++row) {
      double square = 0;
      for (size_t d = row * static_cast<size_t>(D); d < (row + 1) * static_cast<size_t>(D); ++d) square += x[d] * x[d];
      ASSERT_NEAR(inverse[row] * std::sqrt(square), 1.0, 1e-6);
    }
  }
}

TEST(NormaliseKeys, BackwardIsTheDerivativeAndIsAdded) {
  Context ctx;
  const int64_t B = 2, T = 3, H = 2, D = 5;
  const Array q = normal({B, T, H, D}, 1), dk = normal({B, T, H, D}, 2), whole = normal({B, T, 2, H, D}, 3);
  const Tensor dq = part_of(whole, 0);
  const std::vector<double> before = values(dq), beside = values(part_of(whole, 1));
  Array k({B, T, H, D}), inverse_norm({B, T, H});
  normalise_keys(ctx, k, inverse_norm, q);
  normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
  std::vector<double> x = q.values();
  const auto loss = [&] { return dot(dk.values(), normalised(x, D)); };
  EXPECT_TRUE(close(dq, sum(before, numeric_gradient(loss, x)), 1e-6));
  EXPECT_EQ(values(part_of(whole, 1)), beside);
}

TEST(NormaliseKeys, HeadsMayLieAnywhere) {
  Context ctx;
  const Array heads = normal({2, 3, 9, 8}, 1), dheads = normal({2, 3, 9, 8}, 2), dk = normal({2, 9, 3, 8}, 3);
  Array q({2, 9, 3, 8}), dq({2, 9, 3, 8}), k({2, 9, 3, 8}), k_want({2, 9, 3, 8}), inverse_norm({2, 9, 3});
  q.assign(values(by_position(heads)));
  dq.assign(values(by_position(dheads)));
  normalise_keys(ctx, k_want, inverse_norm, q);
  normalise_keys(ctx, k, inverse_norm, by_position(heads));
  EXPECT_TRUE(k.same_bits(k_want));
  normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
  normalise_keys_backward(ctx, by_position(dheads), dk, k, inverse_norm);
  EXPECT_EQ(values(by_position(dheads)), dq.values());
}

TEST(NormaliseKeys, ZeroStaysZero) {
  Context ctx;
  Array q({1, 2, 1, 4}), k({1, 2, 1, 4}), inverse_norm({1, 2, 1});
  q.assign({0, 0, 0, 0, 0, 3, 0, 4});
  normalise_keys(ctx, k, inverse_norm, q);
  EXPECT_TRUE(close(k, {0, 0, 0, 0, 0, 0.6, 0, 0.8}, 1e-7));
}

TEST(NormaliseKeys, WrongShapesAreNamed) {
  Context ctx;
  const Array q({1, 3, 2, 4}), norm({1, 3, 2}), wide({1, 3, 2, 5}), flat({6, 4}), whole({1, 3, 2, 2, 4});
  EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, q, norm, flat); }, {"normalise_keys: q "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, wide, norm, q); }, {"normalise_keys: k "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, part_of(whole, 0), norm, q); }, {"normalise_keys: k "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, q, q, q); }, {"normalise_keys: inverse_norm "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys_backward(ctx, flat, q, q, norm); }, {"normalise_keys_backward: dq "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys_backward(ctx, q, wide, q, norm); }, {"normalise_keys_backward: dk "}));
  EXPECT_TRUE(fails_naming([&] { normalise_keys_backward(ctx, q, q, wide, norm); }, {"normalise_keys_backward: k "}));
}

}  // namespace
}  // namespace scfa::test

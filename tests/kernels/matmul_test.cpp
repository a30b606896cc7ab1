#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include "support/compare.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;

// y = x w^T + bias, x (N, K), w (M, K)
Vector reference(const Vector& x, const Vector& w, const Vector& bias, int64_t N, int64_t K, int64_t M) {
  Vector y(static_cast<size_t>(N * M));
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < M; ++j) {
      double total = bias.empty() ? 0.0 : bias[static_cast<size_t>(j)];
      for (int64_t k = 0; k < K; ++k) total += x[static_cast<size_t>(i * K + k)] * w[static_cast<size_t>(j * K + k)];
      y[static_cast<size_t>(i * M + j)] = total;
    }
  return y;
}

TEST(Matmul, ForwardIsTheFormula) {
  Context ctx;
  const int64_t shapes[][3] = {{1, 1, 1}, {1, 65, 3}, {65, 7, 129}, {1000, 65, 33}, {3, 1000, 1}};
  for (const auto& [N, K, M] : shapes)
    for (const bool with_bias : {false, true}) {
      const Array x = normal({N, K}, 1), w = normal({M, K}, 2), bias = normal({M}, 3);
      Array y({N, M}), again({N, M});
      const ConstTensor b = with_bias ? ConstTensor(bias) : ConstTensor();
      matmul_forward(ctx, y, x, w, b);
      matmul_forward(ctx, again, x, w, b);
      const Vector want = reference(x.values(), w.values(), with_bias ? bias.values() : Vector(), N, K, M);
      EXPECT_TRUE(close(y, want, 1e-6)) << N << " " << K << " " << M << " bias " << with_bias;
      EXPECT_TRUE(y.same_bits(again));
    }
}

TEST(Matmul, LeadingDimensionsAreRows) {
  Context ctx;
  const Array x = normal({2, 5, 7}, 1), w = normal({3, 7}, 2);
  Array y({2, 5, 3});
  matmul_forward(ctx, y, x, w, {});
  EXPECT_TRUE(close(y, reference(x.values(), w.values(), {}, 10, 7, 3), 1e-6));
}

TEST(Matmul, BackwardIsTheDerivative) {
  Context ctx;
  const int64_t N = 13, K = 7, M = 5;
  Array dy = normal({N, M}, 4), x = normal({N, K}, 1), w = normal({M, K}, 2);
  Array dx({N, K}), dw = normal({M, K}, 5), dbias = normal({M}, 6);
  const Vector dw_before = dw.values(), dbias_before = dbias.values(), g = dy.values();
  matmul_backward(ctx, dx, dw, dbias, dy, x, w);
  Vector xs = x.values(), ws = w.values(), bs(M, 0.0);
  const auto loss = [&] { return dot(g, reference(xs, ws, bs, N, K, M)); };
  EXPECT_TRUE(close(dx, numeric_gradient(loss, xs), 1e-6));  // overwritten: it was NaN
  EXPECT_TRUE(close(dw, sum(dw_before, numeric_gradient(loss, ws)), 1e-6));
  EXPECT_TRUE(close(dbias, sum(dbias_before, numeric_gradient(loss, bs)), 1e-6));
}

TEST(Matmul, BackwardOfManyRows) {
  Context ctx;
  const int64_t N = 1000, K = 65, M = 129;  // more columns than a thread's share
  const Array dy = normal({N, M}, 4), x = normal({N, K}, 1), w = normal({M, K}, 2);
  Array dx({N, K}), dw = normal({M, K}, 5), dbias = normal({M}, 6);
  Vector dx_want(static_cast<size_t>(N * K)), dw_want = dw.values(), db_want = dbias.values();
  const float *g = dy.as<float>(), *a = x.as<float>(), *b = w.as<float>();
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < M; ++j) {
      const double gij = g[i * M + j];
      db_want[static_cast<size_t>(j)] += gij;
      for (int64_t k = 0; k < K; ++k) {
        dx_want[static_cast<size_t>(i * K + k)] += gij * b[j * K + k];
        dw_want[static_cast<size_t>(j * K + k)] += gij * a[i * K + k];
      }
    }
  matmul_backward(ctx, dx, dw, dbias, dy, x, w);
  EXPECT_TRUE(close(dx, dx_want, 2e-6));
  EXPECT_TRUE(close(dw, dw_want, 2e-6));
  EXPECT_TRUE(close(dbias, db_want, 2e-6));
  Array db_serial = normal({M}, 6);
  const Threads one(1);
  matmul_backward(ctx, {}, {}, db_serial, dy, x, w);
  EXPECT_TRUE(db_serial.same_bits(dbias));
}

TEST(Matmul, EachGradientIsOptional) {
  Context ctx;
  const Array dy = normal({6, 3}, 1), x = normal({6, 4}, 2), w = normal({3, 4}, 3);
  Array dx({6, 4}), dw({3, 4}), dbias({3}), dx_all({6, 4}), dw_all({3, 4}), dbias_all({3});
  for (Array* t : {&dw, &dbias, &dw_all, &dbias_all}) t->fill(0);
  matmul_backward(ctx, dx_all, dw_all, dbias_all, dy, x, w);
  matmul_backward(ctx, dx, {}, {}, dy, x, w);
  matmul_backward(ctx, {}, dw, {}, dy, x, w);
  matmul_backward(ctx, {}, {}, dbias, dy, x, w);
  EXPECT_TRUE(dx.same_bits(dx_all));
  EXPECT_TRUE(dw.same_bits(dw_all));
  EXPECT_TRUE(dbias.same_bits(dbias_all));
}

TEST(Matmul, WrongShapesAreNamed) {
  Context ctx;
  const Array x({6, 4}), w({3, 4}), y({6, 3}), bias({3}), wrong({6, 5});
  const auto forward = [&](const Tensor& out, const ConstTensor& in, const ConstTensor& weight, const ConstTensor& b) {
    return [&ctx, out, in, weight, b] { matmul_forward(ctx, out, in, weight, b); };
  };
  EXPECT_TRUE(fails_naming(forward(y, wrong, w, {}), {"matmul_forward", ": x "}));
  EXPECT_TRUE(fails_naming(forward(y, {}, w, {}), {"matmul_forward", ": x ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(wrong, x, w, {}), {"matmul_forward", ": y "}));
  EXPECT_TRUE(fails_naming(forward(y, x, w, y), {"matmul_forward", ": bias "}));
  EXPECT_TRUE(fails_naming(forward(y, x, bias, {}), {"matmul_forward", ": w "}));
  const auto backward = [&](const Tensor& dx, const Tensor& dw, const Tensor& db, const ConstTensor& dy) {
    return [&, dx, dw, db, dy] { matmul_backward(ctx, dx, dw, db, dy, x, w); };
  };
  EXPECT_TRUE(fails_naming(backward(x, w, bias, wrong), {"matmul_backward", ": dy "}));
  EXPECT_TRUE(fails_naming(backward(x, w, bias, {}), {"matmul_backward", ": dy "}));
  EXPECT_TRUE(fails_naming(backward(wrong, w, bias, y), {"matmul_backward", ": dx "}));
  EXPECT_TRUE(fails_naming(backward(x, y, bias, y), {"matmul_backward", ": dw "}));
  EXPECT_TRUE(fails_naming(backward(x, w, y, y), {"matmul_backward", ": dbias "}));
}

}  // namespace
}  // namespace scfa::test

#include "kernels/linear/linear.h"

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

TEST(Linear, ForwardIsTheFormula) {
  Context ctx;
  const int64_t shapes[][3] = {{1, 1, 1}, {1, 65, 3}, {65, 7, 129}, {1000, 65, 33}, {3, 1000, 1}};
  for (const auto& [N, K, M] : shapes)
    for (const bool with_bias : {false, true}) {
      const Array x = normal({N, K}, 1), w = normal({M, K}, 2), bias = normal({M}, 3);
      Array y({N, M}), again({N, M});
      const ConstTensor b = with_bias ? ConstTensor(bias) : ConstTensor();
      linear_forward(ctx, y, x, w, b);
      linear_forward(ctx, again, x, w, b);
      const Vector want = reference(x.values(), w.values(), with_bias ? bias.values() : Vector(), N, K, M);
      EXPECT_TRUE(close(y, want, 1e-6)) << N << " " << K << " " << M << " bias " << with_bias;
      EXPECT_TRUE(y.same_bits(again));
    }
}

TEST(Linear, LeadingDimensionsAreRows) {
  Context ctx;
  const Array x = normal({2, 5, 7}, 1), w = normal({3, 7}, 2);
  Array y({2, 5, 3});
  linear_forward(ctx, y, x, w, {});
  EXPECT_TRUE(close(y, reference(x.values(), w.values(), {}, 10, 7, 3), 1e-6));
}

TEST(Linear, BackwardIsTheDerivative) {
  Context ctx;
  const int64_t N = 13, K = 7, M = 5;
  Array dy = normal({N, M}, 4), x = normal({N, K}, 1), w = normal({M, K}, 2);
  Array dx({N, K}), dw = normal({M, K}, 5), dbias = normal({M}, 6);
  const Vector dw_before = dw.values(), dbias_before = dbias.values(), g = dy.values();
  linear_dgrad(ctx, dx, dy, w);
  linear_wgrad(ctx, dw, dy, x);
  linear_bgrad(ctx, dbias, dy);
  Vector xs = x.values(), ws = w.values(), bs(M, 0.0);
  const auto loss = [&] { return dot(g, reference(xs, ws, bs, N, K, M)); };
  EXPECT_TRUE(close(dx, numeric_gradient(loss, xs), 1e-6));  // overwritten: it was NaN
  EXPECT_TRUE(close(dw, sum(dw_before, numeric_gradient(loss, ws)), 1e-6));
  EXPECT_TRUE(close(dbias, sum(dbias_before, numeric_gradient(loss, bs)), 1e-6));
}

TEST(Linear, BackwardOfManyRows) {
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
  linear_dgrad(ctx, dx, dy, w);
  linear_wgrad(ctx, dw, dy, x);
  linear_bgrad(ctx, dbias, dy);
  EXPECT_TRUE(close(dx, dx_want, 2e-6));
  EXPECT_TRUE(close(dw, dw_want, 2e-6));
  EXPECT_TRUE(close(dbias, db_want, 2e-6));
  Array db_serial = normal({M}, 6);
  const Threads one(1);
  linear_bgrad(ctx, db_serial, dy);
  EXPECT_TRUE(db_serial.same_bits(dbias));
}

// One layer with GELU and one behind it: what the ops with GELU compute is what the ops one by one compute.
TEST(Linear, GeluBelongsToTheOp) {
  Context ctx;
  const int64_t N = 37, K = 9, M = 21, out = 6;
  const Array x = normal({N, K}, 1), w = normal({M, K}, 2), b = normal({M}, 3), w2 = normal({out, M}, 4);
  const Array dy = normal({N, out}, 5);
  for (const Gelu kind : {Gelu::kErf, Gelu::kTanh})
    for (const bool with_bias : {false, true}) {
      const ConstTensor bias = with_bias ? ConstTensor(b) : ConstTensor();
      Array y({N, M}), pre_gelu({N, M}), y_want({N, M}), sum({N, M}), dpre_gelu({N, M}), dsum({N, M});
      Array db = normal({M}, 6), db_want = normal({M}, 6);
      linear_gelu_forward(ctx, y, pre_gelu, x, w, bias, kind);
      linear_forward(ctx, sum, x, w, bias);
      gelu_forward(ctx, y_want, sum, {}, kind);
      EXPECT_TRUE(close(y, y_want.values(), 1e-5));
      linear_gelu_dgrad(ctx, dpre_gelu, with_bias ? db.view() : Tensor(), dy, w2, pre_gelu, bias, kind);
      linear_dgrad(ctx, dsum, dy, w2);
      gelu_backward(ctx, dsum, {}, dsum, sum, {}, kind);
      if (with_bias) linear_bgrad(ctx, db_want, dsum);
      EXPECT_TRUE(close(dpre_gelu, dsum.values(), 1e-5));
      EXPECT_TRUE(close(db, db_want.values(), 1e-5));
    }
}

TEST(Linear, WrongShapesAreNamed) {
  Context ctx;
  const Array x({6, 4}), w({3, 4}), y({6, 3}), bias({3}), wrong({6, 5});
  const auto forward = [&](const Tensor& out, const ConstTensor& in, const ConstTensor& weight, const ConstTensor& b) {
    return [&ctx, out, in, weight, b] { linear_forward(ctx, out, in, weight, b); };
  };
  EXPECT_TRUE(fails_naming(forward(y, wrong, w, {}), {"linear_forward", ": x "}));
  EXPECT_TRUE(fails_naming(forward(y, {}, w, {}), {"linear_forward", ": x ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(wrong, x, w, {}), {"linear_forward", ": y "}));
  EXPECT_TRUE(fails_naming(forward(y, x, w, y), {"linear_forward", ": bias "}));
  EXPECT_TRUE(fails_naming(forward(y, x, bias, {}), {"linear_forward", ": w "}));
  const auto named = [&](auto run, const char* op, const char* argument) {
    EXPECT_TRUE(fails_naming(run, {op, concat(": ", argument, " ").c_str()})) << op << " " << argument;
  };
  named([&] { linear_gelu_forward(ctx, y, wrong, x, w, {}, Gelu::kErf); }, "linear_gelu_forward", "pre_gelu");
  named([&] { linear_gelu_forward(ctx, y, {}, x, w, {}, Gelu::kErf); }, "linear_gelu_forward", "pre_gelu");
  named([&] { linear_gelu_forward(ctx, y, y, wrong, w, {}, Gelu::kErf); }, "linear_gelu_forward", "x");
  named([&] { linear_dgrad(ctx, x, wrong, w); }, "linear_dgrad", "dy");
  named([&] { linear_dgrad(ctx, x, {}, w); }, "linear_dgrad", "dy");
  named([&] { linear_dgrad(ctx, wrong, y, w); }, "linear_dgrad", "dx");
  named([&] { linear_gelu_dgrad(ctx, x, {}, y, w, wrong, {}, Gelu::kErf); }, "linear_gelu_dgrad", "pre_gelu");
  named([&] { linear_gelu_dgrad(ctx, wrong, {}, y, w, x, {}, Gelu::kErf); }, "linear_gelu_dgrad", "dpre_gelu");
  named([&] { linear_gelu_dgrad(ctx, x, bias, y, w, x, {}, Gelu::kErf); }, "linear_gelu_dgrad", "dbias");
  named([&] { linear_gelu_dgrad(ctx, x, {}, y, w, x, bias, Gelu::kErf); }, "linear_gelu_dgrad", "bias");
  named([&] { linear_wgrad(ctx, w, wrong, x); }, "linear_wgrad", "dy");
  named([&] { linear_wgrad(ctx, w, y, wrong); }, "linear_wgrad", "x");
  named([&] { linear_wgrad(ctx, bias, y, x); }, "linear_wgrad", "dw");
  named([&] { linear_bgrad(ctx, bias, wrong); }, "linear_bgrad", "dbias");
  named([&] { linear_bgrad(ctx, {}, y); }, "linear_bgrad", "dbias");
  named([&] { linear_bgrad(ctx, bias, {}); }, "linear_bgrad", "dy");
}

}  // namespace
}  // namespace scfa::test

#include "kernels/layernorm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;
constexpr float kEps = 1e-5f;

struct Reference {
  Vector y, mean, rstd;
  Reference(const Vector& r, const Vector& w, const Vector& b) : y(r.size()) {
    const size_t C = w.size();
    for (size_t i = 0; i < r.size() / C; ++i) {
      double m = 0, square = 0;
      for (size_t c = 0; c < C; ++c) m += r[i * C + c] / static_cast<double>(C);
      for (size_t c = 0; c < C; ++c) square += (r[i * C + c] - m) * (r[i * C + c] - m) / static_cast<double>(C);
      const double s = 1.0 / std::sqrt(square + static_cast<double>(kEps));
      for (size_t c = 0; c < C; ++c) y[i * C + c] = (r[i * C + c] - m) * s * w[c] + (b.empty() ? 0.0 : b[c]);
      mean.push_back(m);
      rstd.push_back(s);
    }
  }
};

TEST(Layernorm, ForwardIsTheFormula) {
  Context ctx;
  const int64_t shapes[][2] = {{1, 1}, {1, 65}, {65, 1000}, {7, 768}};
  for (const auto& [N, C] : shapes)
    for (const bool with_skip : {false, true})
      for (const bool with_bias : {false, true}) {
        const Array x = normal({N, C}, 1, 1.0, 0.5), skip = normal({N, C}, 2), w = normal({C}, 3), b = normal({C}, 4);
        Array y({N, C}), r({N, C}), mean({N}), rstd({N});
        layernorm_forward(ctx, y, with_skip ? r.view() : Tensor(), mean, rstd, x,
                          with_skip ? ConstTensor(skip) : ConstTensor(), w, with_bias ? ConstTensor(b) : ConstTensor(),
                          kEps);
        const Vector total = with_skip ? sum(x.values(), skip.values()) : x.values();
        const Reference want(total, w.values(), with_bias ? b.values() : Vector());
        // A row of one has no spread: y = b, up to what (x - mean) * rstd leaves of nothing.
        EXPECT_TRUE(close(y, want.y, 2e-6)) << N << " " << C << " skip " << with_skip << " bias " << with_bias;
        EXPECT_TRUE(close(mean, want.mean, 2e-6));
        EXPECT_TRUE(close(rstd, want.rstd, 2e-6));
        if (with_skip)
          EXPECT_TRUE(close(r, total, 1e-7));
        else
          EXPECT_TRUE(r.poisoned());
      }
}

// The variance is of centred values: a large mean must not drown it.
TEST(Layernorm, LargeMean) {
  Context ctx;
  const int64_t N = 3, C = 768;
  const Array x = normal({N, C}, 1, 1.0, 1000.0), w = normal({C}, 3);
  Array y({N, C}), mean({N}), rstd({N});
  layernorm_forward(ctx, y, {}, mean, rstd, x, {}, w, {}, kEps);
  const Reference want(x.values(), w.values(), {});
  EXPECT_TRUE(close(y, want.y, 1e-3));  // a unit of f32 near 1000 is 6e-5, and the mean is off by a few
  EXPECT_TRUE(close(rstd, want.rstd, 1e-5));
}

TEST(Layernorm, SumMayReplaceTheInput) {
  Context ctx;
  const int64_t N = 65, C = 33;
  const Array skip = normal({N, C}, 2), w = normal({C}, 3), apart = normal({N, C}, 1);
  Array x = normal({N, C}, 1), r({N, C}), y({N, C}), y_apart({N, C}), mean({N}), rstd({N});
  layernorm_forward(ctx, y_apart, r, mean, rstd, apart, skip, w, {}, kEps);
  layernorm_forward(ctx, y, x, mean, rstd, x, skip, w, {}, kEps);
  EXPECT_TRUE(x.same_bits(r));
  EXPECT_TRUE(y.same_bits(y_apart));
}

TEST(Layernorm, BackwardIsTheDerivative) {
  Context ctx;
  const int64_t shapes[][2] = {{1, 5}, {5, 13}, {3, 65}};
  for (const auto& [N, C] : shapes)
    for (const bool with_bias : {false, true}) {
      const Array r = normal({N, C}, 1, 2.0, 0.5), w = normal({C}, 3), b = normal({C}, 4), dy = normal({N, C}, 5);
      Array y({N, C}), mean({N}), rstd({N}), dr = normal({N, C}, 6), dw = normal({C}, 7), db = normal({C}, 8);
      Array dr_sum = normal({C}, 9), dr_alone({N, C}), dw_again({C});
      dw_again.fill(0);
      const Vector dr_before = dr.values(), dw_before = dw.values(), db_before = db.values(),
                   sum_before = dr_sum.values();
      layernorm_forward(ctx, y, {}, mean, rstd, r, {}, w, b, kEps);
      layernorm_backward(ctx, dr_alone, dw_again, {}, {}, {}, dy, r, w, mean, rstd, {});
      layernorm_backward(ctx, dr, dw, with_bias ? db.view() : Tensor(), with_bias ? dr_sum.view() : Tensor(), dr, dy, r,
                         w, mean, rstd, {});
      Vector rs = r.values(), ws = w.values(), bs = b.values();
      const Vector g = dy.values();
      const auto loss = [&] { return dot(g, Reference(rs, ws, bs).y); };
      EXPECT_TRUE(close(dr, sum(dr_before, numeric_gradient(loss, rs)), 2e-6)) << N << " " << C;
      EXPECT_TRUE(close(dr_alone, numeric_gradient(loss, rs), 2e-6));  // overwritten: it was NaN
      Vector sum_want = sum_before;
      for (int64_t i = 0; with_bias && i < N * C; ++i)
        sum_want[static_cast<size_t>(i % C)] += dr.values()[static_cast<size_t>(i)];
      EXPECT_TRUE(close(dr_sum, sum_want, 2e-6));
      EXPECT_TRUE(close(dw, sum(dw_before, numeric_gradient(loss, ws)), 2e-6));
      EXPECT_TRUE(close(db, with_bias ? sum(db_before, numeric_gradient(loss, bs)) : db_before, 2e-6));
    }
}

TEST(Layernorm, SameBitsForAnyNumberOfThreads) {
  Context ctx;
  const int64_t N = 101, C = 200;
  const Array r = normal({N, C}, 1), w = normal({C}, 3), dy = normal({N, C}, 5);
  std::vector<Array> outputs;
  for (const int threads : {1, 2, 3}) {
    const Threads limit(threads);
    Array y({N, C}), mean({N}), rstd({N}), dr({N, C}), dw({C}), db({C}), dr_sum({C});
    for (Array* t : {&dr, &dw, &db, &dr_sum}) t->fill(0);
    layernorm_forward(ctx, y, {}, mean, rstd, r, {}, w, {}, kEps);
    layernorm_backward(ctx, dr, dw, db, dr_sum, dr, dy, r, w, mean, rstd, {});
    for (Array* t : {&y, &mean, &rstd, &dr, &dw, &db, &dr_sum}) outputs.push_back(std::move(*t));
  }
  for (size_t i = 7; i < outputs.size(); ++i) EXPECT_TRUE(outputs[i].same_bits(outputs[i % 7])) << i;
}

TEST(Layernorm, WrongShapesAreNamed) {
  Context ctx;
  const int64_t N = 1, C = 8;
  const Array x({N, C}), w({C}), one({N}), wrong({N, C + 1}), integers(DType::kI32, {N, C});
  const auto forward = [&](Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor in, ConstTensor skip,
                           ConstTensor weight, ConstTensor b) {
    return [=, &ctx] { layernorm_forward(ctx, y, r, mean, rstd, in, skip, weight, b, kEps); };
  };
  const Tensor none;
  EXPECT_TRUE(fails_naming(forward(none, none, one, one, x, none, w, none), {"layernorm_forward: y ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, one, wrong, none, w, none), {"layernorm_forward: x "}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, one, integers, none, w, none), {"layernorm_forward: x ", "i32"}));
  EXPECT_TRUE(fails_naming(forward(x, x, one, one, x, wrong, w, none), {"layernorm_forward: skip "}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, one, x, x, w, none), {"layernorm_forward: r ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(x, none, none, one, x, none, w, none), {"layernorm_forward: mean ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, w, x, none, w, none), {"layernorm_forward: rstd "}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, one, x, none, x, none), {"layernorm_forward: w "}));
  EXPECT_TRUE(fails_naming(forward(x, none, one, one, x, none, w, one), {"layernorm_forward: b "}));
  const auto backward = [&](Tensor dr, Tensor dw, Tensor db, ConstTensor dy, ConstTensor r, ConstTensor mean) {
    return [=, &ctx, &w, &one] { layernorm_backward(ctx, dr, dw, db, {}, dr, dy, r, w, mean, one, {}); };
  };
  EXPECT_TRUE(fails_naming(backward(x, w, w, none, x, one), {"layernorm_backward: dy "}));
  EXPECT_TRUE(fails_naming(backward(wrong, w, w, x, x, one), {"layernorm_backward: dr "}));
  EXPECT_TRUE(fails_naming(backward(x, one, w, x, x, one), {"layernorm_backward: dw "}));
  EXPECT_TRUE(fails_naming(backward(x, w, one, x, x, one), {"layernorm_backward: db "}));
  EXPECT_TRUE(fails_naming([&] { layernorm_backward(ctx, x, w, w, one, x, x, x, w, one, one, {}); },
                           {"layernorm_backward: dr_sum "}));
  EXPECT_TRUE(fails_naming([&] { layernorm_backward(ctx, x, w, w, {}, wrong, x, x, w, one, one, {}); },
                           {"layernorm_backward: dr_in "}));
  EXPECT_TRUE(fails_naming(backward(x, w, w, x, wrong, one), {"layernorm_backward: r "}));
  EXPECT_TRUE(fails_naming(backward(x, w, w, x, x, w), {"layernorm_backward: mean "}));
}

TEST(Layernorm, NoRowsIsNothingToDo) {
  Context ctx;
  const Array x({0, 8}), w = normal({8}, 1), none({0});
  Array dw({8});
  EXPECT_NO_THROW(layernorm_forward(ctx, x, {}, none, none, x, {}, w, {}, kEps));
  EXPECT_NO_THROW(layernorm_backward(ctx, x, dw, {}, {}, x, x, x, w, none, none, {}));
  EXPECT_TRUE(dw.poisoned());  // adding nothing leaves it
}

}  // namespace
}  // namespace scfa::test

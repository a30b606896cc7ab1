#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;

void norm_of(Context& ctx, const Array& norm, const Array& g) {
  const Array sum(DType::kF64, {1});
  square_sum(ctx, sum, g);
  gradient_norm(ctx, norm, sum);
}

double norm_of(const Array& g) {
  Context ctx;
  Array norm({1});
  norm.fill(0);
  norm_of(ctx, norm, g);
  return norm.as<float>()[0];
}

TEST(GradientNorm, IsTheRootOfTheSumOfSquares) {
  for (const int64_t n : {1, 65, 1000, 65536, 65537, 200001}) {
    const Array g = normal({n}, 1, 0.01);
    const double want = std::sqrt(dot(g.values(), g.values()));
    EXPECT_NEAR(norm_of(g), want, 1e-7 * want) << n;  // one rounding to f32: the sum is in double
  }
  Array zero({100});
  zero.fill(0);
  EXPECT_EQ(norm_of(zero), 0.0);
}

TEST(GradientNorm, SumsInDouble) {
  Array g({1000001});
  g.fill(1e-3);  // a million equal terms: sums of f32 would stall far from it
  g.as<float>()[0] = 1000.0f;
  EXPECT_NEAR(norm_of(g), std::sqrt(1e6 + 1.0), 1e-4);
  g.fill(1e25);  // whose squares are more than f32 holds
  EXPECT_NEAR(norm_of(g) / 1e28, std::sqrt(1.000001), 1e-6);
}

TEST(GradientNorm, NanIsNotSwallowed) {
  Array g = normal({70000}, 1);
  g.as<float>()[69999] = NAN;
  EXPECT_TRUE(std::isnan(norm_of(g)));
}

TEST(GradientNorm, SameBitsForAnyNumberOfThreads) {
  const Array g = normal({300007}, 1);
  const double all = norm_of(g);
  for (const int threads : {1, 2, 3, 5}) {
    const Threads limit(threads);
    EXPECT_EQ(norm_of(g), all) << threads;
  }
}

TEST(GradientNorm, AddsTheSumsOfParts) {
  Context ctx;
  const Array g = normal({1000}, 1), sums(DType::kF64, {3});
  Array norm({1});
  norm.fill(0);
  for (int64_t part = 0; part < 3; ++part)
    square_sum(ctx, sums.view().slice(part, 1), g.view().slice(part * 400, part == 2 ? 200 : 400));
  gradient_norm(ctx, norm, sums);
  EXPECT_FLOAT_EQ(norm.as<float>()[0], static_cast<float>(norm_of(g)));
}

// Updates that were launched before the host saw it are not applied either.
TEST(GradientNorm, StaysNotFinite) {
  Context ctx;
  Array g = normal({100}, 1), norm({1});
  norm.fill(0);
  g.as<float>()[7] = INFINITY;
  norm_of(ctx, norm, g);
  EXPECT_TRUE(std::isinf(norm.as<float>()[0]));
  norm_of(ctx, norm, normal({100}, 2));
  EXPECT_TRUE(std::isinf(norm.as<float>()[0]));
}

// PyTorch's AdamW after its clip_grad_norm_, written out in double.
struct Reference {
  Vector p, m, v;
  void step(const Vector& g, double norm, const AdamW& s) {
    const double b1 = s.beta1, b2 = s.beta2, lr = s.lr, t = static_cast<double>(s.step);
    const double clip = s.max_norm > 0 ? std::min(1.0, static_cast<double>(s.max_norm) / (norm + 1e-6)) : 1.0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double d = g[i] * clip;
      p[i] -= lr * static_cast<double>(s.weight_decay) * p[i];
      m[i] = b1 * m[i] + (1 - b1) * d;
      v[i] = b2 * v[i] + (1 - b2) * d * d;
      const double m_hat = m[i] / (1 - std::pow(b1, t)), v_hat = v[i] / (1 - std::pow(b2, t));
      p[i] -= lr * m_hat / (std::sqrt(v_hat) + static_cast<double>(s.eps));
    }
  }
};

TEST(AdamW, FollowsTheFormulaForManySteps) {
  Context ctx;
  for (const int64_t n : {1, 65, 1000})
    for (const float max_norm : {0.0f, 0.5f, 1e6f}) {  // none, active, too large to act
      AdamW settings{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 0};
      settings.max_norm = max_norm;
      Array p = normal({n}, 1), m({n}), v({n}), norm({1});
      m.fill(0);
      v.fill(0);
      norm.fill(0);
      Reference want{p.values(), m.values(), v.values()};
      for (settings.step = 1; settings.step <= 10; ++settings.step) {
        const Array g = normal({n}, 10 + static_cast<uint64_t>(settings.step), 0.3);
        norm_of(ctx, norm, g);
        adamw(ctx, p, m, v, {}, g, {}, max_norm > 0 ? ConstTensor(norm) : ConstTensor(), settings);
        want.step(g.values(), std::sqrt(dot(g.values(), g.values())), settings);
      }
      EXPECT_TRUE(close(p, want.p, 1e-6)) << n << " " << max_norm;
      EXPECT_TRUE(close(m, want.m, 1e-6));
      EXPECT_TRUE(close(v, want.v, 1e-6));
    }
}

// Late in a run the corrections have died away and one step moves a weight by a thousandth of a thousandth.
TEST(AdamW, LateSteps) {
  Context ctx;
  const AdamW settings{
      .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 1000000};
  Array p = normal({1000}, 1), m = normal({1000}, 2, 0.01), v({1000});
  v.fill(1e-4);
  const Array g = normal({1000}, 3, 0.01);
  Reference want{p.values(), m.values(), v.values()};
  adamw(ctx, p, m, v, {}, g, {}, {}, settings);
  want.step(g.values(), 0, settings);
  EXPECT_TRUE(close(p, want.p, 1e-7));
  EXPECT_TRUE(close(v, want.v, 1e-6));
}

TEST(AdamW, WithoutGradientOnlyDecayActs) {
  Context ctx;
  const AdamW settings{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1};
  Array p({3}), zero({3}), m({3}), v({3});
  p.fill(2);
  for (Array* t : {&zero, &m, &v}) t->fill(0);
  adamw(ctx, p, m, v, {}, zero, {}, {}, settings);
  for (int i = 0; i < 3; ++i) EXPECT_FLOAT_EQ(p.as<float>()[i], 1.9f);
}

TEST(AdamW, DecaysTheBlocksOfTheMask) {
  Context ctx;
  const AdamW settings{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1};
  const int64_t n = 2 * kDecayBlock + 5;
  Array p({n}), zero({n}), m({n}), v({n}), decays(DType::kU16, {3});
  p.fill(2);
  for (Array* t : {&zero, &m, &v}) t->fill(0);
  decays.assign({0, 1, 0});
  adamw(ctx, p, m, v, {}, zero, decays, {}, settings);
  for (int64_t i = 0; i < n; ++i) EXPECT_FLOAT_EQ(p.as<float>()[i], i / kDecayBlock == 1 ? 1.9f : 2.0f) << i;
  const Array wrong(DType::kU16, {2});
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, m, v, {}, zero, wrong, {}, settings); }, {"adamw: decays "}));
}

TEST(AdamW, ANormThatIsNotFiniteChangesNothing) {
  Context ctx;
  const AdamW settings{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1};
  for (const float bad : {NAN, INFINITY}) {
    Array p = normal({100}, 1), m = normal({100}, 2), v = normal({100}, 3), norm({1});
    const Array g = normal({100}, 4), before = normal({100}, 1);
    norm.fill(static_cast<double>(bad));
    adamw(ctx, p, m, v, {}, g, {}, norm, settings);
    EXPECT_TRUE(p.same_bits(before));
  }
}

TEST(AdamW, FactorsMayLieInMemory) {
  Context ctx;
  AdamW settings{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 7};
  const Array g = normal({100}, 4), factors({kAdamWFactors});
  Array p = normal({100}, 1), m = normal({100}, 2), v({100}), p2 = normal({100}, 1), m2 = normal({100}, 2), v2({100});
  v.fill(0.5), v2.fill(0.5);
  write_adamw_factors(ctx, factors, settings);
  EXPECT_NEAR(factors.as<float>()[0], 0.01 / (1 - std::pow(0.9, 7)), 1e-8);
  EXPECT_NEAR(factors.as<float>()[1], 1 / std::sqrt(1 - std::pow(0.95, 7)), 1e-6);
  EXPECT_FLOAT_EQ(factors.as<float>()[2], 0.999f);
  adamw(ctx, p, m, v, {}, g, {}, {}, settings);
  settings.lr = 5, settings.step = 0;  // nobody looks at them
  adamw(ctx, p2, m2, v2, {}, g, {}, {}, settings, factors);
  EXPECT_TRUE(p2.same_bits(p));
  EXPECT_TRUE(v2.same_bits(v));
}

TEST(AdamW, NumberOfThreadsDoesNotMatter) {
  Context ctx;
  const AdamW settings{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 1};
  const Array g = normal({10007}, 2);
  Array p = normal({10007}, 1), serial = normal({10007}, 1), m({10007}), v({10007});
  m.fill(0);
  v.fill(0);
  adamw(ctx, p, m, v, {}, g, {}, {}, settings);
  const Threads one(1);
  m.fill(0);
  v.fill(0);
  adamw(ctx, serial, m, v, {}, g, {}, {}, settings);
  EXPECT_TRUE(close(serial, p.values(), 1e-7));
}

TEST(AdamW, WrongShapesAreNamed) {
  Context ctx;
  const Array p({4}), five({5}), norm({1});
  AdamW settings{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1};
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, five, p, {}, p, {}, {}, settings); }, {"adamw: m ", "f32[5]"}));
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, p, {}, {}, p, {}, {}, settings); }, {"adamw: v ", "empty"}));
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, p, p, {}, five, {}, {}, settings); }, {"adamw: g "}));
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, {}, p, p, {}, p, {}, {}, settings); }, {"adamw: p "}));
  settings.max_norm = 1;
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, p, p, {}, p, {}, {}, settings); }, {"adamw: norm "}));
  settings.step = 0;
  EXPECT_TRUE(
      fails_naming([&] { adamw(ctx, p, p, p, {}, p, {}, norm, settings); }, {"adamw", "first step is 1, not 0"}));
  EXPECT_TRUE(fails_naming([&] { write_adamw_factors(ctx, Array({3}), settings); }, {"first step is 1, not 0"}));
  EXPECT_TRUE(fails_naming([&] { write_adamw_factors(ctx, p, settings); }, {"write_adamw_factors: factors "}));
  EXPECT_TRUE(fails_naming([&] { adamw(ctx, p, p, p, {}, p, {}, norm, settings, p); }, {"adamw: factors "}));
  const Array sum(DType::kF64, {1});
  EXPECT_TRUE(fails_naming([&] { gradient_norm(ctx, five, sum); }, {"gradient_norm: norm "}));
  EXPECT_TRUE(fails_naming([&] { gradient_norm(ctx, norm, p); }, {"gradient_norm: square_sums "}));
  EXPECT_TRUE(fails_naming([&] { square_sum(ctx, sum, {}); }, {"square_sum: g "}));
  EXPECT_TRUE(fails_naming([&] { square_sum(ctx, norm, p); }, {"square_sum: sum "}));
}

}  // namespace
}  // namespace scfa::test

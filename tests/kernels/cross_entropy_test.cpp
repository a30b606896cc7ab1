#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;
constexpr double kLongSum = 2e-5;  // of 50257 terms in f32, one after the other in builds without vector code

double reference_loss(const double* row, int64_t V, int64_t target) {
  double top = -INFINITY, total = 0.0;
  for (int64_t c = 0; c < V; ++c) top = std::max(top, row[c]);
  for (int64_t c = 0; c < V; ++c) total += std::exp(row[c] - top);
  return top + std::log(total) - row[target];
}

struct Case {
  int64_t N, V, P;
  Array logits, targets, losses, correct;
  Case(int64_t n, int64_t vocabulary, int64_t padded, double scale = 3.0)
      : N(n),
        V(vocabulary),
        P(padded),
        logits(normal({n, padded}, 1, scale)),
        targets(DType::kI32, {n}),
        losses({n}),
        correct({n}) {
    for (int64_t i = 0; i < N; ++i) {
      targets.as<int32_t>()[i] = static_cast<int32_t>((i * 7 + V - 1) % V);  // the last entry of the table among them
      for (int64_t c = V; c < P; ++c) logits.as<float>()[i * P + c] = c % 2 ? NAN : 1e30f;  // padding never enters
    }
  }
  void run(float scale) {
    Context ctx;
    cross_entropy(ctx, losses, correct, logits, targets, V, scale);
  }
};

TEST(CrossEntropy, LossesAndHits) {
  const int64_t sizes[][3] = {{1, 1, 1}, {1, 65, 128}, {65, 33, 33}, {7, 1000, 1024}, {3, 50257, 50304}};
  for (const auto& [N, V, P] : sizes) {
    Case c(N, V, P);
    const Vector logits = c.logits.values();
    Vector want(static_cast<size_t>(N)), correct(static_cast<size_t>(N));
    for (int64_t i = 0; i < N; ++i) {
      const double* row = logits.data() + i * P;
      const int32_t target = c.targets.as<int32_t>()[i];
      want[static_cast<size_t>(i)] = reference_loss(row, V, target);
      correct[static_cast<size_t>(i)] = std::max_element(row, row + V) - row == target;
    }
    c.run(0.0f);
    EXPECT_TRUE(close(c.losses, want, V > 1000 ? kLongSum : 1e-6)) << N << " " << V;
    EXPECT_EQ(c.correct.values(), correct);
    for (int64_t i = 0; i < N; ++i)  // without a gradient, logits are left alone
      for (int64_t k = i * P; k < i * P + V; ++k) ASSERT_EQ(c.logits.as<float>()[k], logits[static_cast<size_t>(k)]);
  }
}

TEST(CrossEntropy, AnIgnoredTargetCountsNothing) {
  const int64_t N = 6, V = 33, P = 48;
  Case plain(N, V, P), c(N, V, P);
  for (const int64_t i : {0, 3, 5}) c.targets.as<int32_t>()[i] = kIgnoredTarget;
  plain.run(0.5f), c.run(0.5f);
  for (int64_t i = 0; i < N; ++i) {
    const bool ignored = i == 0 || i == 3 || i == 5;
    EXPECT_EQ(c.losses.as<float>()[i], ignored ? 0.0f : plain.losses.as<float>()[i]);
    EXPECT_EQ(c.correct.as<float>()[i], ignored ? 0.0f : plain.correct.as<float>()[i]);
    for (int64_t k = i * P; k < i * P + P; ++k)
      ASSERT_EQ(c.logits.as<float>()[k], ignored ? 0.0f : plain.logits.as<float>()[k]);
  }
}

TEST(CrossEntropy, GradientIsTheDerivative) {
  const int64_t sizes[][3] = {{1, 2, 2}, {5, 13, 16}, {3, 65, 65}};
  for (const auto& [N, V, P] : sizes) {
    Case c(N, V, P, 1.0);
    const double scale = 0.25;
    Vector logits = c.logits.values();
    const auto loss = [&] {
      double total = 0;
      for (int64_t i = 0; i < N; ++i) total += reference_loss(logits.data() + i * P, V, c.targets.as<int32_t>()[i]);
      return scale * total;
    };
    const Vector want = numeric_gradient(loss, logits);  // zero for padding, which the loss does not read
    c.run(static_cast<float>(scale));
    EXPECT_TRUE(close(c.logits, want, 1e-6)) << N << " " << V;
    for (int64_t i = 0; i < N; ++i)
      for (int64_t k = V; k < P; ++k) ASSERT_EQ(c.logits.as<float>()[i * P + k], 0.0f);
  }
}

TEST(CrossEntropy, LargeVocabularyGradient) {
  const int64_t N = 2, V = 50257, P = 50304;
  Case c(N, V, P);
  Vector want = c.logits.values();
  for (int64_t i = 0; i < N; ++i) {
    double* row = want.data() + i * P;
    const int32_t target = c.targets.as<int32_t>()[i];
    const double log_sum = reference_loss(row, V, target) + row[target];
    for (int64_t k = 0; k < P; ++k) row[k] = k < V ? -2.0 * (std::exp(row[k] - log_sum) - (k == target)) : 0.0;
  }
  c.run(-2.0f);  // any factor, also a negative one
  EXPECT_TRUE(close(c.logits, want, kLongSum));
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  Case c(3, 5, 5);
  c.logits.assign({3e38, 0, 0, 0, 0, -3e38, -3e38, -3e38, -3e38, -3e38, 0, 90, 0, 0, 100});
  c.targets.assign({0, 1, 4});
  c.run(1.0f);
  EXPECT_NEAR(c.losses.as<float>()[0], 0.0, 1e-6);
  EXPECT_NEAR(c.losses.as<float>()[1], std::log(5.0), 1e-6 * 3e38);  // log 5 drowns beside 3e38
  EXPECT_NEAR(c.losses.as<float>()[2], std::exp(-10.0), 1e-5);
  for (const double g : c.logits.values()) EXPECT_LE(std::abs(g), 1.0);
}

TEST(CrossEntropy, NanIsNotSwallowed) {
  for (const int64_t where : {0, 3, 12}) {
    Case c(1, 13, 16);
    c.logits.as<float>()[where] = NAN;
    c.run(0.0f);
    EXPECT_TRUE(std::isnan(c.losses.as<float>()[0])) << where;
  }
}

TEST(CrossEntropy, SameBitsForAnyNumberOfThreads) {
  Case all(65, 100, 128), serial(65, 100, 128);
  all.run(0.5f);
  {
    const Threads one(1);
    serial.run(0.5f);
  }
  EXPECT_TRUE(all.losses.same_bits(serial.losses));
  EXPECT_TRUE(all.logits.same_bits(serial.logits));
}

TEST(CrossEntropy, WrongTargetsAndShapesAreNamed) {
  Context ctx;
  for (const int32_t target : {-1, 13, 15}) {
    Case c(3, 13, 16);
    c.targets.as<int32_t>()[2] = target;
    EXPECT_TRUE(
        fails_naming([&] { c.run(1.0f); }, {"cross_entropy", std::to_string(target).c_str(), "vocabulary of 13"}));
    EXPECT_TRUE(c.losses.poisoned());  // checked before anything is written
  }
  Case c(1, 4, 8);
  const Array two({2});
  const auto run = [&](Tensor losses, Tensor correct, Tensor logits, ConstTensor targets, int64_t V) {
    return [=, &ctx] { cross_entropy(ctx, losses, correct, logits, targets, V, 0.0f); };
  };
  EXPECT_TRUE(fails_naming(run(c.losses, c.correct, c.logits, c.targets, 9), {"cross_entropy: logits ", "P >= 9"}));
  EXPECT_TRUE(fails_naming(run(c.losses, c.correct, c.logits, c.targets, 0), {"cross_entropy: logits "}));
  EXPECT_TRUE(fails_naming(run(c.losses, c.correct, {}, c.targets, 4), {"cross_entropy: logits "}));
  EXPECT_TRUE(fails_naming(run(two, c.correct, c.logits, c.targets, 4), {"cross_entropy: losses ", "f32[2]"}));
  EXPECT_TRUE(fails_naming(run({}, c.correct, c.logits, c.targets, 4), {"cross_entropy: losses ", "empty"}));
  EXPECT_TRUE(fails_naming(run(c.losses, {}, c.logits, c.targets, 4), {"cross_entropy: correct ", "empty"}));
  EXPECT_TRUE(fails_naming(run(c.losses, c.correct, c.logits, c.losses, 4), {"cross_entropy: targets ", "f32[1]"}));
}

TEST(AddLosses, AddsTheFirstOnesInDouble) {
  Context ctx;
  Array sums(DType::kF64, {3}), correct({1000}), targets(DType::kI32, {1000});
  const Array losses = normal({1000}, 1, 1.0, 5.0);
  correct.fill(1);
  sums.assign({10, 20, 30});
  targets.fill(7);
  targets.as<int32_t>()[0] = targets.as<int32_t>()[699] = targets.as<int32_t>()[700] = kIgnoredTarget;
  add_losses(ctx, sums, losses, correct, targets, 700);
  double want = 10;
  for (int i = 0; i < 700; ++i) want += static_cast<double>(losses.as<float>()[i]);
  EXPECT_NEAR(sums.as<double>()[0], want, 1e-9);
  EXPECT_EQ(sums.as<double>()[1], 720.0);
  EXPECT_EQ(sums.as<double>()[2], 728.0);
  EXPECT_TRUE(fails_naming([&] { add_losses(ctx, sums, losses, correct, targets, 1001); }, {"add_losses", "1001"}));
  EXPECT_TRUE(fails_naming([&] { add_losses(ctx, sums, losses, correct, losses, 1); }, {"add_losses: targets "}));
}

}  // namespace
}  // namespace scfa::test

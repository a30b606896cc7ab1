// Attention where queries see parts of their segments, and over several relations.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/attention/combine.h"
#include "support/compare.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

constexpr double kTolerance = 1e-5;  // of f32 sums, as for one relation

TEST(AttentionRelations, EqualTheFormulas) {
  Context ctx;
  for (const AttentionShape& shape : {AttentionShape{2, 130, 3, 16}, {1, 400, 3, 8}, {2, 9, 4, 5}})
    for (const AttentionLayout layout : {kQkv, kByHead})
      for (const VisibilityCase& c : visibility_cases(shape, layout)) {
        SCOPED_TRACE(concat(c.name, ", T ", shape.T, ", layout ", static_cast<int>(layout)));
        const AttentionTensors t(ctx, c.problem, 100);
        prepare(t, c);
        t.forward();
        t.backward();
        t.expect_formulas(kTolerance);
        const std::vector<double> first = t.results();
        const Threads one(1);
        t.forward();
        t.backward();
        EXPECT_EQ(t.results(), first);
      }
}

// With shared keys dq is the whole derivative: the formulas' gradients with respect to queries and keys together.
TEST(AttentionRelations, SharedKeys) {
  Context ctx;
  const AttentionShape shape{2, 100, 3, 8};
  for (const VisibilityCase& c : visibility_cases(shape, kSharedQk)) {
    SCOPED_TRACE(c.name);
    const AttentionTensors t(ctx, c.problem, 100);
    prepare(t, c);
    t.forward();
    t.backward();
    const std::vector<double> q = t.read(t.q), k = t.read(t.k), v = t.read(t.v);
    const AttentionGradients want(shape, q, k, v, t.visible(), static_cast<double>(t.scale), t.read(t.dout));
    std::vector<double> dq = want.dq;
    const std::vector<double> inverse = t.read(t.inverse_norm);
    for (int64_t row = 0; row < shape.B * shape.T * shape.H; ++row) {
      const auto* key = k.data() + row * shape.D;
      const auto* dk = want.dk.data() + row * shape.D;
      double along = 0;
      for (int64_t d = 0; d < shape.D; ++d) along += key[d] * dk[d];
      for (int64_t d = 0; d < shape.D; ++d)
        dq[static_cast<size_t>(row * shape.D + d)] += (dk[d] - key[d] * along) * inverse[static_cast<size_t>(row)];
    }
    EXPECT_TRUE(close(t.read(t.dq), dq, kTolerance, 0.05));
    EXPECT_TRUE(close(t.read(t.dv), want.dv, kTolerance));
  }
}

// Twice the same relation: every weight doubles, so that out is the same and lse one more.
TEST(AttentionRelations, TheSameTwiceIsTheSame) {
  Context ctx;
  const AttentionShape shape{1, 150, 2, 8};
  const AttentionTensors once(ctx, problem_of(shape, kQkv, 4, false), 5);
  AttentionProblem problem = problem_of(shape, kQkv, 4, false);
  problem.relations = 2;
  const AttentionTensors twice(ctx, problem, 5);
  const ChooseSegments tied = chosen(segment_choices()[2], 4, 1);
  once.set_segments(tied);
  twice.set_segments({tied, tied});
  for (const AttentionTensors* t : {&once, &twice}) t->forward(), t->backward();
  EXPECT_TRUE(close(twice.read(twice.out), once.read(once.out), 1e-6));
  std::vector<double> lse = once.read(once.lse);
  for (double& x : lse) x += 1;
  EXPECT_TRUE(close(twice.read(twice.lse), lse, 1e-6));
  EXPECT_TRUE(close(twice.read(twice.dq), once.read(once.dq), 1e-5, 0.05));
  EXPECT_TRUE(close(twice.read(twice.dv), once.read(once.dv), 1e-5));
}

// They are computed one after the other.
TEST(AttentionRelations, SeveralNeedNoMoreScratch) {
  Context ctx;
  const GuardedSegments guarded(ctx, 2, 3, 40, 4), other(ctx, 2, 3, 40, 4);
  const Segments both[] = {guarded.segments, other.segments};
  EXPECT_EQ(attention_scratch(ctx, both, 8), cpu::attention_scratch(ctx, guarded.segments, 8));
}

// lse is the logarithm of the sum of weights; +inf where no key is seen.
TEST(Combine, WeightsAreSharesOfTheSum) {
  const auto equal = [](const CombineWeights& got, float existing, float added, float lse) {
    EXPECT_FLOAT_EQ(got.existing, existing);
    EXPECT_FLOAT_EQ(got.added, added);
    EXPECT_FLOAT_EQ(got.lse, lse);
  };
  equal(combine_weights(3, 1), 0.8f, 0.2f, std::log2(10.0f));
  equal(combine_weights(1, 3), 0.2f, 0.8f, std::log2(10.0f));
  equal(combine_weights(1000, 1000), 0.5f, 0.5f, 1001);
  equal(combine_weights(-1000, 1000), 0, 1, 1000);
  equal(combine_weights(INFINITY, -2), 0, 1, -2);
  equal(combine_weights(1000, INFINITY), 1, 0, 1000);
  equal(combine_weights(INFINITY, INFINITY), 1, 0, INFINITY);
}

TEST(AttentionRelations, NoneAndDifferentShapesAreNamed) {
  Context ctx;
  const GuardedSegments guarded(ctx, 1, 2, 8, 1), longer(ctx, 1, 2, 9, 1);
  for (const GuardedSegments* segments : {&guarded, &longer}) {
    segments->set(chosen(segment_choices()[0], 1, 0));
    segments->build({});
  }
  const Array x({1, 8, 2, 4}), lse({1, 2, 8}), scratch({100000});
  const auto forward = [&](const std::vector<Segments>& relations, const Tensor& space) {
    return [&, relations, space] { attention_forward(ctx, x, lse, x, x, x, relations, 1.0f, space); };
  };
  EXPECT_TRUE(fails_naming(forward({}, scratch), {"attention_forward", "a relation"}));
  EXPECT_TRUE(fails_naming(forward({guarded.segments, longer.segments}, scratch), {"attention_forward: segments "}));
  const Array small({attention_scratch(ctx, {&guarded.segments, 1}, 4) - 1});
  EXPECT_TRUE(fails_naming(forward({guarded.segments, guarded.segments}, small), {"attention_forward: scratch "}));
}

}  // namespace
}  // namespace scfa::test

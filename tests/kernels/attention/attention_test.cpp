#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/document_starts.h"
#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

constexpr double kTolerance = 1e-5;  // of f32 sums over up to a thousand keys; typical errors are a few 1e-7

struct Case {
  AttentionShape shape;
  int64_t segments;
  AttentionLayout layout;
  bool strided_out = false;
};

const SegmentChoice& choice_named(const std::string& name) {
  for (const SegmentChoice& choice : segment_choices())
    if (choice.name == name) return choice;
  fail("no choice is named ", name);
}

// Forward and backward against the formulas, twice with the same bits, and once more on one thread.
void check(const Case& c, const SegmentChoice& choice, bool attend_self) {
  SCOPED_TRACE(concat(choice.name, ", T ", c.shape.T, ", H ", c.shape.H, ", H_kv ", c.shape.kv_heads(), ", D ",
                      c.shape.D, ", ", c.segments, " segments, self ", attend_self, ", layout ",
                      static_cast<int>(c.layout), ", strided out ", c.strided_out));
  Context ctx;
  const AttentionTensors tensors(ctx, problem_of(c.shape, c.layout, c.segments, attend_self, c.strided_out), 100);
  tensors.set_segments(chosen(choice, c.segments, 11));
  tensors.forward();
  tensors.backward();
  tensors.expect_formulas(kTolerance);
  EXPECT_TRUE(tensors.bystanders_intact());
  const std::vector<double> first = tensors.results();
  for (const int threads : {omp_get_max_threads(), 1}) {
    const Threads limit(threads);
    tensors.forward();
    tensors.backward();
    EXPECT_EQ(tensors.results(), first) << threads << " threads";
  }
}

TEST(Attention, SmallShapes) {
  using enum AttentionLayout;
  const Case cases[] = {
      {{1, 1, 1, 1}, 1, kSeparate},     {{2, 5, 3, 1}, 2, kQkv},         {{1, 63, 2, 16}, 3, kQv, true},
      {{3, 64, 1, 16}, 2, kQkv},        {{1, 65, 3, 64}, 8, kQkv, true}, {{2, 129, 2, 16}, 4, kSeparate},
      {{1, 127, 1, 128}, 2, kQv, true}, {{1, 128, 2, 7}, 64, kQv, true}, {{2, 65, 3, 16}, 3, kByHead},
      {{2, 65, 6, 16, 2}, 3, kQkv},     {{1, 129, 4, 8, 1}, 4, kByHead}, {{1, 63, 4, 16, 2}, 3, kQv, true},
      {{1, 64, 3, 8, 3}, 2, kSeparate}};
  for (const Case& c : cases)
    for (const SegmentChoice& choice : segment_choices())
      for (const bool attend_self : {false, true}) check(c, choice, attend_self);
}

TEST(Attention, ManyTiles) {
  using enum AttentionLayout;
  check({{1, 1000, 1, 64}, 1, kQkv}, choice_named("one"), true);
  check({{1, 1000, 2, 64}, 16, kQv, true}, choice_named("tied"), false);
  check({{1, 1000, 1, 16}, 3, kQkv}, choice_named("untied"), true);
  check({{1, 1000, 1, 128}, 1, kQkv}, choice_named("some dropped"), true);
  check({{1, 1000, 2, 16}, 4096, kSeparate}, choice_named("tied"), true);
  check({{1, 1000, 2, 16}, 9, kSeparate}, choice_named("sizes around a tile"), false);
}

TEST(Attention, RowsThatSeeNothingAreZero) {
  Context ctx;
  const AttentionTensors t(ctx, problem_of({2, 150, 2, 8}, AttentionLayout::kQkv, 3, false), 1);
  t.set_segments(chosen(choice_named("some dropped"), 3, 5));
  t.forward();
  t.backward();
  const std::vector<uint8_t> visible = t.visible();
  int64_t blind = 0, unseen = 0;
  const auto zero_row = [&](const Tensor& x, int64_t b, int64_t i, int64_t h) {
    for (const double value : values(x.select(b).select(i).select(h)))
      if (value != 0.0) return false;
    return true;
  };
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t i = 0; i < 150; ++i) {
        bool sees = false, seen = false;
        for (int64_t j = 0; j < 150; ++j) {
          sees |= visible[static_cast<size_t>(((b * 2 + h) * 150 + i) * 150 + j)] != 0;
          seen |= visible[static_cast<size_t>(((b * 2 + h) * 150 + j) * 150 + i)] != 0;
        }
        blind += !sees;
        unseen += !seen;
        const float lse = t.lse.as<float>()[(b * 2 + h) * 150 + i];
        EXPECT_EQ(zero_row(t.out, b, i, h), !sees);
        EXPECT_EQ(lse == INFINITY, !sees);
        EXPECT_EQ(zero_row(t.dv, b, i, h), !seen);
        EXPECT_TRUE(sees || zero_row(t.dq, b, i, h));  // also zero for some that see a single key
        EXPECT_TRUE(seen || zero_row(t.dk, b, i, h));
      }
  EXPECT_GT(blind, 100);  // the case has what it is about
  EXPECT_GT(unseen, 100);
}

// Documents of 1 to about 60 tokens, alone and with windows, relations and grouped heads.
TEST(Attention, DocumentsApart) {
  Context ctx;
  for (const int64_t window : {0, 1, 20})
    for (const int64_t relations : {1, 2})
      for (const SegmentChoice& choice : segment_choices()) {
        SCOPED_TRACE(concat(choice.name, ", window ", window, ", ", relations, " relations"));
        AttentionProblem problem = problem_of({2, 200, 4, 8, 2}, AttentionLayout::kQkv, 3, true);
        problem.patterns = patterns_with({{true, window}}, relations);
        problem.documents = true;
        const AttentionTensors t(ctx, problem, 7);
        Array ids(DType::kI32, {2, 200});
        for (int64_t i = 0; i < 400; ++i) ids.as<int32_t>()[i] = i * i % 61 < 2 ? 9 : static_cast<int32_t>(i % 8);
        document_starts(ctx, t.document_start, ids, 9);
        t.set_segments(std::vector(static_cast<size_t>(relations), chosen(choice, 3, 11)));
        t.forward();
        t.backward();
        t.expect_formulas(kTolerance);
      }
}

// Heads of keys and values that several query heads read are that many equal heads, whose gradients are added up.
TEST(Attention, GroupedHeadsAreRepeatedHeads) {
  using enum AttentionLayout;
  Context ctx;
  for (const int64_t kv_heads : {1, 2, 3, 6}) {
    const int64_t B = 2, T = 130, H = 6, D = 8, group = H / kv_heads;
    const AttentionTensors grouped(ctx, problem_of({B, T, H, D, kv_heads}, kSeparate, 4, true), 3);
    const AttentionTensors repeated(ctx, problem_of({B, T, H, D}, kSeparate, 4, true), 4);
    repeated.write(repeated.q, grouped.read(grouped.q));
    repeated.write(repeated.dout, grouped.read(grouped.dout));
    const auto heads = [&](const std::vector<double>& few) {
      std::vector<double> all;
      for (int64_t token = 0; token < B * T; ++token)
        for (int64_t h = 0; h < H; ++h) {
          const auto row = few.begin() + (token * kv_heads + h / group) * D;
          all.insert(all.end(), row, row + D);
        }
      return all;
    };
    repeated.write(repeated.k, heads(grouped.read(grouped.k)));
    repeated.write(repeated.v, heads(grouped.read(grouped.v)));
    for (const AttentionTensors* t : {&grouped, &repeated}) {
      t->set_segments(chosen(choice_named("some dropped"), 4, 5));
      t->forward();
      t->backward();
    }
    EXPECT_EQ(grouped.read(grouped.out), repeated.read(repeated.out)) << kv_heads;
    EXPECT_EQ(grouped.read(grouped.lse), repeated.read(repeated.lse)) << kv_heads;
    EXPECT_EQ(grouped.read(grouped.dq), repeated.read(repeated.dq)) << kv_heads;
    const auto sums = [&](const std::vector<double>& all) {
      std::vector<double> few(static_cast<size_t>(B * T * kv_heads * D));
      for (int64_t i = 0; i < B * T * H * D; ++i) {
        double& sum = few[static_cast<size_t>((i / D / group) * D + i % D)];
        sum = static_cast<double>(static_cast<float>(sum + all[static_cast<size_t>(i)]));
      }
      return few;
    };
    EXPECT_EQ(grouped.read(grouped.dk), sums(repeated.read(repeated.dk))) << kv_heads;
    EXPECT_EQ(grouped.read(grouped.dv), sums(repeated.read(repeated.dv))) << kv_heads;
  }
}

// A query that sees one key copies its value, and the key's score does not matter: dq and dk are zero.
TEST(Attention, OneVisibleKey) {
  Context ctx;
  const AttentionTensors t(ctx, problem_of({1, 2, 1, 4}, AttentionLayout::kSeparate, 1, false), 1);
  t.set_segments(chosen(choice_named("one"), 1, 0));
  t.forward();
  t.backward();
  EXPECT_EQ(values(t.out.select(0).slice(1, 1)), values(t.v.select(0).slice(0, 1)));
  EXPECT_TRUE(close(values(t.dv.select(0).slice(0, 1)), values(t.dout.select(0).slice(1, 1)), 1e-6));
  for (const double x : values(t.dk)) EXPECT_NEAR(x, 0.0, 1e-6);
}

// Scores in the hundreds: exponentials without their maximum taken off would overflow.
TEST(Attention, LargeScores) {
  Context ctx;
  const AttentionTensors t(ctx, problem_of({1, 200, 1, 64}, AttentionLayout::kSeparate, 1, true), 7, 16.0);
  t.set_segments(chosen(choice_named("one"), 1, 0));
  t.forward();
  t.backward();
  // A score near 1000 is right to 1e-4, and so is the probability that comes of it.
  t.expect_formulas(1e-3);
}

TEST(Attention, LseIsInLog2Units) {
  Context ctx;
  // All scores are 0: query i sums i + 1 ones.
  const AttentionTensors t(ctx, problem_of({1, 8, 1, 4}, AttentionLayout::kSeparate, 1, true), 1, 0.0);
  t.set_segments(chosen(choice_named("one"), 1, 0));
  t.forward();
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(t.lse.as<float>()[i], std::log2(i + 1.0), 1e-6);
}

TEST(Attention, WrongShapesAreNamed) {
  Context ctx;
  const GuardedSegments guarded(ctx, 1, 2, 8, 1), of_longer(ctx, 1, 2, 9, 1);
  guarded.set(chosen(choice_named("one"), 1, 0));
  guarded.build({});
  const Segments &segments = guarded.segments, &longer = of_longer.segments;
  const Array x({1, 8, 2, 4}), wide({1, 8, 2, 5}), lse({1, 2, 8}), small({10}), integers(DType::kI32, {1, 8, 2, 4});
  const Array scratch({attention_scratch(ctx, {&segments, 1}, 4)});
  const auto forward = [&](Tensor out, Tensor l, ConstTensor q, ConstTensor k, ConstTensor v, const Segments& s,
                           Tensor space) {
    return [=, &ctx, &s] { attention_forward(ctx, out, l, q, k, v, {&s, 1}, 1.0f, space); };
  };
  EXPECT_TRUE(fails_naming(forward(x, lse, {}, x, x, segments, scratch), {"attention_forward: q "}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, wide, x, segments, scratch), {"attention_forward: k ", "2, 5]"}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, x, {}, segments, scratch), {"attention_forward: v "}));
  EXPECT_TRUE(fails_naming(forward(wide, lse, x, x, x, segments, scratch), {"attention_forward: out "}));
  EXPECT_TRUE(fails_naming(forward(x, x, x, x, x, segments, scratch), {"attention_forward: lse "}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, x, x, longer, scratch), {"attention_forward: segments "}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, x, x, segments, small), {"attention_forward: scratch ", "f32[10]"}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, x, x, segments, {}), {"attention_forward: scratch ", "empty"}));
  EXPECT_TRUE(fails_naming(forward(integers, lse, integers, integers, integers, segments, scratch),
                           {"attention_forward: q ", "i32"}));
  const Tensor good = x;
  const std::pair<const char*, int> arguments[] = {{"dq", 0}, {"dk", 1}, {"dv", 2}, {"dout", 3}, {"out", 4}};
  for (const auto& [name, bad] : arguments) {
    const auto pick = [&, at = bad](int i) { return i == at ? wide.view() : good; };
    EXPECT_TRUE(fails_naming(
        [&] {
          attention_backward(ctx, pick(0), pick(1), pick(2), pick(3), good, good, good, pick(4), lse, {&segments, 1},
                             1.0f, scratch);
        },
        {concat("attention_backward: ", name, " ").c_str()}));
  }
  const auto with_norm = [&](const Tensor& dk, const Tensor& inverse_norm) {
    return [&ctx, &segments, &lse, &scratch, good, dk, inverse_norm] {
      attention_backward(ctx, good, dk, good, good, good, good, good, good, lse, {&segments, 1}, 1.0f, scratch,
                         inverse_norm);
    };
  };
  EXPECT_TRUE(fails_naming(with_norm(good, good), {"attention_backward: inverse_norm "}));
  const Array one_head({1, 8, 1, 4}), three_heads({1, 8, 3, 4}), norms({1, 8, 2});
  EXPECT_TRUE(
      fails_naming(forward(x, lse, x, three_heads, three_heads, segments, scratch), {"attention_forward: k ", "of 2"}));
  EXPECT_TRUE(fails_naming(forward(x, lse, x, one_head, x, segments, scratch), {"attention_forward: v ", "like k"}));
  const int64_t more = attention_scratch(ctx, {&segments, 1}, 4, 1);
  EXPECT_GT(more, scratch.view().numel());  // dk and dv of both heads
  EXPECT_EQ(attention_scratch(ctx, {&segments, 1}, 4, 2), scratch.view().numel());
  EXPECT_TRUE(fails_naming(forward(x, lse, x, one_head, one_head, segments, scratch),
                           {"attention_forward: scratch ", concat(more).c_str()}));
  const Array enough({more});
  EXPECT_TRUE(fails_naming(
      [&] {
        attention_backward(ctx, good, good, one_head, good, good, one_head, one_head, good, lse, {&segments, 1}, 1.0f,
                           enough);
      },
      {"attention_backward: dk ", "like k"}));
  EXPECT_TRUE(fails_naming(
      [&] {
        attention_backward(ctx, good, one_head, one_head, good, good, one_head, one_head, good, lse, {&segments, 1},
                           1.0f, enough, norms);
      },
      {"attention_backward: with inverse_norm k must have as many heads as q, 2, not 1"}));
  EXPECT_TRUE(fails_naming(
      [&] {
        AttentionTensors(ctx, problem_of({1, 8, 4, 4, 3}, AttentionLayout::kQkv, 1, true), 1);
      },
      {"heads of keys and values must divide the 4", "3"}));
  EXPECT_TRUE(fails_naming(
      [&] {
        AttentionTensors(ctx, problem_of({1, 8, 4, 4, 2}, AttentionLayout::kSharedQk, 1, true), 1);
      },
      {"keys that are the queries", "4", "2"}));
}

}  // namespace
}  // namespace scfa::test

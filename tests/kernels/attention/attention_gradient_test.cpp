// Finite differences of the formulas, for each pattern and for the whole path that a model's block takes: normalise,
// rotate, attend, and back.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/rotary.h"
#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

constexpr double kTheta = 100.0;

struct Path {
  HeadPatterns patterns;
  bool shared_qk, rotary;
  AttentionShape shape;
};

void PrintTo(const Path& path, std::ostream* to) {
  *to << describe(path.patterns) << " self " << attends_self(path.patterns[0]) << " shared " << path.shared_qk
      << " rotary " << path.rotary << " T " << path.shape.T << " H " << path.shape.H << " of " << path.shape.kv_heads();
}

class AttentionGradient : public testing::TestWithParam<Path> {};

TEST_P(AttentionGradient, IsTheDerivativeOfTheFormula) {
  const auto& [patterns, shared_qk, with_rotary, shape] = GetParam();
  const auto [B, T, H, D, given] = shape;
  const int64_t H_kv = shape.kv_heads();
  Context ctx;
  const AttentionTensors t(ctx,
                           {.shape = shape,
                            .layout = shared_qk ? AttentionLayout::kSharedQk : AttentionLayout::kQkv,
                            .patterns = patterns,
                            .strided_out = shared_qk},
                           21);
  std::vector<double> q = t.read(t.q), k = t.read(t.k), v = t.read(t.v);
  const std::vector<double> dout = t.read(t.dout);

  t.write(t.samples, B == 1 ? std::vector<double>{4} : std::vector<double>{4, 9});
  const PatternDraw draw{.seed = 1, .step = 2, .layer = 3};
  t.draw(ctx, draw);
  t.assign(ctx, draw);
  t.build(ctx);
  if (with_rotary)
    for (const Tensor& rows : {t.q, t.k}) rotary(ctx, rows, 0, kTheta, 1);
  t.forward();
  t.backward();
  if (with_rotary) rotary(ctx, t.dq, 0, kTheta, -1);
  if (with_rotary && !shared_qk) rotary(ctx, t.dk, 0, kTheta, -1);

  const std::vector<uint8_t> visible = t.visible();
  const auto turned = [&](const std::vector<double>& x, int64_t heads) {
    return with_rotary ? rotated(x, T, heads, D, 0, kTheta, 1) : x;
  };
  const auto loss = [&] {
    const AttentionFormula formula(shape, turned(q, H), turned(shared_qk ? normalised(q, D) : k, H_kv), v, visible,
                                   static_cast<double>(t.scale));
    return dot(dout, formula.out);
  };
  // Central differences of a formula in double are right to 1e-9; the rest is f32.
  EXPECT_TRUE(close(t.dq, numeric_gradient(loss, q), 5e-6));
  EXPECT_TRUE(close(t.dv, numeric_gradient(loss, v), 5e-6));
  if (!shared_qk) {
    EXPECT_TRUE(close(t.dk, numeric_gradient(loss, k), 5e-6));
  }
}

std::vector<Path> paths() {
  std::vector<Path> all;
  for (const bool shared_qk : {false, true})
    for (const bool with_rotary : {false, true})
      for (const bool attend_self : {false, true})
        for (const char* name : {"dense", "hash", "drop", "blocks"}) {
          AttentionPattern pattern;
          pattern.pattern = name;
          pattern.buckets = 4, pattern.block = 4;
          pattern.drop_rate = 0.3;
          pattern.attend_self = attend_self;
          all.push_back({{pattern}, shared_qk, with_rotary, {2, 13, 2, 4}});
        }
  for (const int64_t kv_heads : {1, 2}) {
    for (const bool with_rotary : {false, true})
      for (const char* name : {"dense", "hash", "drop", "blocks"}) {
        AttentionPattern pattern;
        pattern.pattern = name;
        pattern.buckets = 4, pattern.block = 4;
        pattern.rounds = 3;  // of hash; dk and dv are those of all of them
        pattern.drop_rate = 0.3;
        all.push_back({{pattern}, false, with_rotary, {2, 13, 4, 4, kv_heads}});
      }
    AttentionPattern window;
    window.window = 5;
    all.push_back({{window}, false, false, {2, 13, 4, 4, kv_heads}});
  }
  AttentionPattern hash;
  hash.pattern = "hash";
  hash.buckets = 2;
  all.push_back({HeadPatterns(1), false, false, {1, 70, 1, 2}});  // more than a tile of queries
  all.push_back({{hash}, true, false, {1, 150, 1, 2}});
  // Several hashes that agree about many pairs; heads that see different things.
  AttentionPattern rounds = hash, window, others = rounds, probes = rounds;
  rounds.rounds = 3;
  probes.buckets = 4, probes.probes = 2;
  window.window = 4, window.heads = 1;
  others.rounds = 2, others.attend_self = true;
  for (const bool shared_qk : {false, true})
    for (const bool with_rotary : {false, true}) {
      all.push_back({{rounds}, shared_qk, with_rotary, {2, 13, 2, 4}});
      all.push_back({{window, others}, shared_qk, with_rotary, {2, 13, 3, 4}});
      all.push_back({{window, probes}, shared_qk, with_rotary, {2, 13, 3, 4}});
    }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionGradient, testing::ValuesIn(paths()));

// The same loss through the formulas of the gradients, which the larger tests rely on.
TEST(AttentionFormulas, GradientsAreTheDerivativeOfTheFormula) {
  const AttentionShape shape{1, 9, 2, 3};
  SegmentIds segments(1, 2, 9);
  segment_choices()[4].choose(segments, 2, 3);
  const std::vector<uint8_t> visible = visibility(ids_alone(segments.q_segment, segments.k_segment), {});
  std::vector<double> q = normal({54}, 1).values(), k = normal({54}, 2).values(), v = normal({54}, 3).values();
  const std::vector<double> dout = normal({54}, 4).values();
  const AttentionGradients got(shape, q, k, v, visible, 0.7, dout);
  const auto loss = [&] { return dot(dout, AttentionFormula(shape, q, k, v, visible, 0.7).out); };
  EXPECT_TRUE(close(got.dq, numeric_gradient(loss, q), 1e-8));
  EXPECT_TRUE(close(got.dk, numeric_gradient(loss, k), 1e-8));
  EXPECT_TRUE(close(got.dv, numeric_gradient(loss, v), 1e-8));
}

}  // namespace
}  // namespace scfa::test

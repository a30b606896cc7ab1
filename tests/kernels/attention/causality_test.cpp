// What comes later changes nothing: every pattern of the list that says so is given the same tokens up to a position
// and other ones behind it.
#include <gtest/gtest.h>

#include <utility>

#include "kernels/attention/patterns/descriptor.h"
#include "support/attention_tensors.h"
#include "support/compare.h"

namespace scfa::test {
namespace {

// The patterns of the list that are causal, with a window and without, and as mixtures of as many as there are heads.
std::vector<HeadPatterns> causal_patterns(int64_t H) {
  std::vector<HeadPatterns> all;
  HeadPatterns mixture;
  for (const std::string& name : pattern_names()) {
    AttentionPattern pattern;
    pattern.pattern = name, pattern.buckets = 4, pattern.rounds = 2, pattern.block = 8;
    if (!is_causal(pattern)) continue;
    all.push_back({pattern});
    if (name == "hash") {
      pattern.balance = "prefix", pattern.near = 12, pattern.probes = 2;
      all.push_back({pattern});
      pattern.near = 0;
    }
    pattern.window = 7;
    all.push_back({pattern});
    pattern.heads = 1;
    mixture.push_back(pattern);
    if (static_cast<int64_t>(mixture.size()) == H) all.push_back(std::exchange(mixture, {}));
  }
  if (!mixture.empty()) {
    mixture.back().heads = H - static_cast<int64_t>(mixture.size()) + 1;
    all.push_back(mixture);
  }
  return all;
}

void run(Context& ctx, const AttentionTensors& t) {
  const PatternDraw draw{.seed = 4, .step = 5, .layer = 6};
  t.draw(ctx, draw);
  t.assign(ctx, draw);
  t.build(ctx);
  t.forward();
}

// Other numbers in all inputs of positions behind `last`.
void change_behind(const AttentionTensors& t, int64_t last) {
  for (const Tensor& input : t.inputs) {
    std::vector<double> elements = t.read(input);
    const auto per_position = static_cast<int64_t>(elements.size()) / (t.shape().B * t.shape().T);
    for (size_t i = 0; i < elements.size(); ++i)
      if (static_cast<int64_t>(i) / per_position % t.shape().T > last) elements[i] = 1.5 - 2 * elements[i];
    t.write(input, elements);
  }
}

// The ids of positions up to `last`, or of those behind, of all relations.
std::vector<double> ids(const AttentionTensors& t, int64_t last, bool behind) {
  std::vector<double> found;
  const int64_t T = t.shape().T;
  for (const Segments& relation : t.layer.relations)
    for (const Tensor& segment : {relation.q_segment, relation.k_segment}) {
      const std::vector<double> all = t.read(segment);
      for (size_t i = 0; i < all.size(); ++i)
        if ((static_cast<int64_t>(i) % T > last) == behind) found.push_back(all[i]);
    }
  return found;
}

std::vector<double> rows(const AttentionTensors& t, int64_t last, bool behind) {
  const auto [B, T, H, D, given] = t.shape();
  const std::vector<double> all = t.read(t.out);
  std::vector<double> found;
  for (size_t i = 0; i < all.size(); ++i)
    if ((static_cast<int64_t>(i) / (H * D) % T > last) == behind) found.push_back(all[i]);
  return found;
}

// The rows of the matrix of visible pairs up to `last`.
std::vector<uint8_t> seen_by(const AttentionTensors& t, int64_t last) {
  const int64_t T = t.shape().T;
  const std::vector<uint8_t> all = t.visible();
  std::vector<uint8_t> found;
  for (size_t i = 0; i < all.size(); ++i)
    if (static_cast<int64_t>(i) / T % T <= last) found.push_back(all[i]);
  return found;
}

// Segments and what is seen are equal exactly. Rows of out are equal up to the order of sums in f32: BLAS takes 64
// queries of a segment at once, and how many there are depends on what comes later.
TEST(Causality, LaterTokensChangeNothing) {
  Context ctx;
  const AttentionShape shape{1, 90, 4, 8};
  for (const HeadPatterns& patterns : causal_patterns(shape.H))
    for (const AttentionLayout layout : {AttentionLayout::kQkv, AttentionLayout::kSharedQk})
      for (const int64_t last : {0, 40, 88}) {
        SCOPED_TRACE(concat(describe(patterns), ", last ", last, ", layout ", static_cast<int>(layout)));
        const AttentionProblem problem{.shape = shape, .layout = layout, .patterns = patterns};
        const AttentionTensors before(ctx, problem, 1), after(ctx, problem, 1);
        change_behind(after, last);
        run(ctx, before);
        run(ctx, after);
        EXPECT_EQ(ids(after, last, false), ids(before, last, false));
        EXPECT_EQ(seen_by(after, last), seen_by(before, last));
        EXPECT_TRUE(close(rows(after, last, false), rows(before, last, false), 1e-6));
        EXPECT_NE(rows(after, last, true), rows(before, last, true));  // the case has what it is about
      }
}

// Each pattern of the list is one of the cases, or says that it is not causal.
TEST(Causality, EveryPatternIsTried) {
  size_t causal = 0;
  for (const PatternDescriptor* descriptor : kPatterns) causal += descriptor->causal;
  EXPECT_EQ(causal_patterns(8).size(), 2 * causal + 1 + (causal + 7) / 8);  // balance is tried besides
  EXPECT_GT(causal, 0u);
}

}  // namespace
}  // namespace scfa::test

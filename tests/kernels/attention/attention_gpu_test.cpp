// The GPU form of attention against the CPU form in f32 on the same inputs, rounded to bf16, and against the formulas
// in double where T is small. What is allowed is what rounding probabilities and results to bf16 costs.
#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>

#include "support/compare.h"
#include "support/formulas.h"
#include "support/gpu.h"
#include "support/segment_cases.h"

namespace scfa::test {
namespace {

constexpr double kOut = 4e-3, kGradient = 8e-3, kLse = 1e-3;

// Where keys are: a part beside queries and values, a tensor of their own, or that and the normalised queries.
enum class Keys { kPart, kBeside, kNormalised };

// Inputs and outputs as models lay them out: q, k, v in one tensor of 3 parts, or q, v in one of 2 and keys beside it.
struct Set {
  Array qkv, keys, dout, out, lse, dqkv, dkeys, inverse_norm;
  Set(DType type, const AttentionShape& s, bool shared)
      : qkv(type, {s.B, s.T, shared ? 2 : 3, s.H, s.D}),
        keys(type, {s.B, shared ? s.T : 0, s.H, s.D}),
        dout(type, {s.B, s.T, s.H, s.D}),
        out(type, {s.B, s.T, s.H, s.D}),
        lse({s.B, s.H, s.T}),
        dqkv(type, {s.B, s.T, shared ? 2 : 3, s.H, s.D}),
        dkeys(type, {s.B, shared ? s.T : 0, s.H, s.D}),
        inverse_norm({s.B, s.T, s.H}) {}

  // Makes the keys of the queries.
  void normalise(const AttentionShape& s) {
    const std::vector<double> q = values(part_of(qkv, 0));
    std::vector<double> k(q.size()), inverse(q.size() / static_cast<size_t>(s.D));
    for (size_t i = 0; i < inverse.size(); ++i) {
      const auto begin = q.begin() + static_cast<std::ptrdiff_t>(i) * s.D;
      inverse[i] = 1.0 / std::sqrt(std::inner_product(begin, begin + s.D, begin, 0.0));
      for (size_t d = 0; d < static_cast<size_t>(s.D); ++d)
        k[i * static_cast<size_t>(s.D) + d] = q[i * static_cast<size_t>(s.D) + d] * inverse[i];
    }
    keys.assign(k);
    inverse_norm.assign(inverse);
  }
};

struct Views {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
};

Views views_of(const Tensor& qkv, const Tensor& keys, const Tensor& dout, const Tensor& out, const Tensor& lse,
               const Tensor& dqkv, const Tensor& dkeys) {
  const bool shared = qkv.size(2) == 2;
  return {part_of(qkv, 0),  shared ? keys : part_of(qkv, 1),   part_of(qkv, shared ? 1 : 2), dout, out, lse,
          part_of(dqkv, 0), shared ? dkeys : part_of(dqkv, 1), part_of(dqkv, shared ? 1 : 2)};
}

// Forward and backward on the device; outputs and scratch are poisoned first and guarded by bands.
void run_gpu(const Set& set, const SegmentArrays& chosen, int64_t count, bool attend_self, float scale,
             bool normalised) {
  Context ctx(Device::kGpu);
  const int64_t B = set.out.view().size(0), T = set.out.view().size(1), H = set.out.view().size(2);
  const int64_t D = set.out.view().size(3);
  Arena measure(Device::kGpu);
  plan_segments(measure, B, H, T, D, count);
  Arena arena(Device::kGpu, measure.used());
  const Segments segments = plan_segments(arena, B, H, T, D, count);
  const WorkLists& work = segments.work;
  for (const Tensor& t : {segments.q_begin, segments.k_begin, segments.q_index, segments.k_index,
                          segments.num_visible_keys, segments.first_query, work.query_tiles, work.key_tiles,
                          work.wide_query_tiles, work.wide_key_tiles, work.single_block_segments, work.counts})
    gpu::fill(t.data, 0xFF, static_cast<size_t>(t.bytes()), ctx.stream());
  ctx.copy(segments.q_segment, chosen.q_segment);
  ctx.copy(segments.k_segment, chosen.k_segment);
  build_segments(ctx, segments, attend_self);
  const Array scratch({attention_scratch(ctx, segments, D)});
  const GpuCopy qkv(ctx, set.qkv), keys(ctx, set.keys), dout(ctx, set.dout), out(ctx, set.out), lse(ctx, set.lse);
  const GpuCopy dqkv(ctx, set.dqkv), dkeys(ctx, set.dkeys), space(ctx, scratch), norm(ctx, set.inverse_norm);
  const Views v = views_of(qkv, keys, dout, out, lse, dqkv, dkeys);
  attention_forward(ctx, v.out, v.lse, v.q, v.k, v.v, segments, scale, space);
  attention_backward(ctx, v.dq, v.dk, v.dv, v.dout, v.q, v.k, v.v, v.out, v.lse, segments, scale, space,
                     normalised ? Tensor(norm) : Tensor());
  out.download(set.out), lse.download(set.lse), dqkv.download(set.dqkv), dkeys.download(set.dkeys);
  qkv.download(set.qkv), keys.download(set.keys), space.download(scratch);
}

testing::AssertionResult close_lse(const std::vector<double>& got, const std::vector<double>& want) {
  for (size_t i = 0; i < got.size(); ++i)
    if (!(got[i] == want[i] || std::abs(got[i] - want[i]) < kLse * std::max(1.0, std::abs(want[i]) / 8)))
      return testing::AssertionFailure() << "lse " << i << " is " << got[i] << ", not " << want[i];
  return testing::AssertionSuccess();
}

using Choose = std::function<void(SegmentArrays&)>;

void check(const AttentionShape& shape, int64_t count, Keys keys, bool attend_self, const std::string& name,
           const Choose& choose, double scale_of_inputs = 1.0,
           const std::function<std::vector<double>(const Set&)>& change_qkv = nullptr) {
  SCOPED_TRACE(concat(name, ", B ", shape.B, ", T ", shape.T, ", H ", shape.H, ", D ", shape.D, ", ", count,
                      " segments, self ", attend_self, ", keys ", static_cast<int>(keys)));
  const auto [B, T, H, D] = shape;
  const bool shared = keys != Keys::kPart, normalised = keys == Keys::kNormalised;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
  SegmentArrays segments(B, H, T, count);
  choose(segments);
  Set got(DType::kBF16, shape, shared), again(DType::kBF16, shape, shared), want(DType::kF32, shape, shared);
  uint64_t seed = 100;
  for (const auto& [bf16, copy, f32] :
       {std::tuple(&got.qkv, &again.qkv, &want.qkv), std::tuple(&got.keys, &again.keys, &want.keys),
        std::tuple(&got.dout, &again.dout, &want.dout)}) {
    bf16->fill_normal(seed, scale_of_inputs);
    copy->fill_normal(seed++, scale_of_inputs);
    if (change_qkv && bf16 == &got.qkv) {
      bf16->assign(change_qkv(got));
      copy->assign(bf16->values());
    }
    f32->assign(bf16->values());
  }
  if (normalised) {
    got.normalise(shape), again.normalise(shape);
    want.keys.assign(got.keys.values());
    want.inverse_norm.assign(got.inverse_norm.values());
  }
  run_gpu(got, segments, count, attend_self, scale, normalised);
  run_gpu(again, segments, count, attend_self, scale, normalised);
  EXPECT_TRUE(got.out.same_bits(again.out));
  EXPECT_TRUE(got.lse.same_bits(again.lse));
  EXPECT_TRUE(got.dqkv.same_bits(again.dqkv));
  if (!normalised) {
    EXPECT_TRUE(got.dkeys.same_bits(again.dkeys));
  }

  Context cpu;
  segments.build(cpu, attend_self);
  const Array scratch({attention_scratch(cpu, segments.view(), D)});
  const Views w = views_of(want.qkv, want.keys, want.dout, want.out, want.lse, want.dqkv, want.dkeys);
  attention_forward(cpu, w.out, w.lse, w.q, w.k, w.v, segments.view(), scale, scratch);
  attention_backward(cpu, w.dq, w.dk, w.dv, w.dout, w.q, w.k, w.v, w.out, w.lse, segments.view(), scale, scratch,
                     normalised ? want.inverse_norm.view() : Tensor());
  const Views g = views_of(got.qkv, got.keys, got.dout, got.out, got.lse, got.dqkv, got.dkeys);
  // Gradients of scores are differences of terms of size one: dq of a query that sees one key is what is left of them.
  const double unit = 0.5 * scale_of_inputs;
  EXPECT_TRUE(close(g.out, values(w.out), kOut));
  EXPECT_TRUE(close_lse(values(g.lse), values(w.lse)));
  EXPECT_TRUE(close(g.dq, values(w.dq), kGradient, unit)) << "dq";
  if (!normalised) {
    EXPECT_TRUE(close(g.dk, values(w.dk), kGradient, unit)) << "dk";
  }
  EXPECT_TRUE(close(g.dv, values(w.dv), kGradient)) << "dv";
  if (T > 129) return;
  const std::vector<uint8_t> visible = visibility(segments.q_segment, segments.k_segment, attend_self);
  const AttentionFormula formula(shape, values(w.q), values(w.k), values(w.v), visible, static_cast<double>(scale));
  EXPECT_TRUE(close(g.out, formula.out, kOut)) << "out, formula";
  EXPECT_TRUE(close_lse(values(g.lse), formula.lse));
}

Choose chosen(const SegmentChoice& choice, int64_t count) {
  return [&choice, count](SegmentArrays& s) { choice.choose(s, count, 11); };
}

// Segments of the given sizes and the rest in the last one, at positions in random order.
Choose of_sizes(std::vector<int64_t> sizes) {
  return [sizes](SegmentArrays& s) {
    std::mt19937_64 random(3);
    const int64_t T = s.q_segment.view().size(2), heads = s.q_segment.view().numel() / T;
    std::vector<uint16_t> ids;
    for (size_t i = 0; i < sizes.size(); ++i)
      ids.insert(ids.end(), static_cast<size_t>(sizes[i]), static_cast<uint16_t>(i));
    ids.resize(static_cast<size_t>(T), static_cast<uint16_t>(sizes.size()));
    for (int64_t head = 0; head < heads; ++head) {
      std::shuffle(ids.begin(), ids.end(), random);
      std::copy(ids.begin(), ids.end(), s.q_segment.as<uint16_t>() + head * T);
      std::copy(ids.begin(), ids.end(), s.k_segment.as<uint16_t>() + head * T);
    }
  };
}

// Twice: on the portable kernels, and on the best there are for this GPU.
class AttentionGpu : public GpuTest, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    use_portable_attention(GetParam());
  }
  void TearDown() override { use_portable_attention(false); }
};
INSTANTIATE_TEST_SUITE_P(Kernels, AttentionGpu, testing::Bool(),
                         [](const auto& row) { return std::string(row.param ? "portable" : "best"); });

TEST_P(AttentionGpu, ShapesAroundATile) {
  for (const int64_t D : {64, 128})
    for (const int64_t T : {1, 63, 64, 65, 127, 128, 129, 300})
      for (const SegmentChoice& choice : segment_choices())
        for (const bool self : {false, true}) {
          const int64_t count = T < 64 ? 3 : 2 + T % 7;
          check({1 + T % 2, T, 2, D}, count, self ? Keys::kBeside : Keys::kPart, self, choice.name,
                chosen(choice, count));
        }
}

TEST_P(AttentionGpu, NarrowHeads) {
  for (const int64_t D : {8, 24, 40, 72, 120})
    for (const SegmentChoice& choice : segment_choices())
      check({2, 200, 3, D}, 3, D == 24 ? Keys::kBeside : Keys::kPart, true, choice.name, chosen(choice, 3));
}

TEST_P(AttentionGpu, LongerSequences) {
  for (const SegmentChoice& choice : segment_choices()) {
    check({1, 1000, 12, 64}, 16, Keys::kBeside, false, choice.name, chosen(choice, 16));
    check({2, 4097, 1, 64}, 8, Keys::kPart, true, choice.name, chosen(choice, 8));
    check({1, 1000, 2, 128}, 64, Keys::kPart, false, choice.name, chosen(choice, 64));
  }
  check({1, 8192, 2, 64}, 1, Keys::kPart, true, "one", chosen(segment_choices()[0], 1));
  check({1, 4096, 1, 128}, 1, Keys::kPart, true, "one", chosen(segment_choices()[0], 1));
}

TEST_P(AttentionGpu, NormalisedKeys) {
  for (const SegmentChoice& choice : segment_choices()) {
    for (const bool self : {false, true})
      for (const int64_t D : {64, 40, 128})
        for (const int64_t T : {1, 129, 300})
          check({1, T, 18, D}, 4, Keys::kNormalised, self, choice.name, chosen(choice, 4));
    check({2, 1000, 9, 64}, 4, Keys::kNormalised, false, choice.name, chosen(choice, 4));
    check({1, 4097, 2, 64}, 4, Keys::kNormalised, false, choice.name, chosen(choice, 4));
  }
}

// As the drop pattern does it: queries and keys are drawn apart, and most queries see keys of other tiles only.
TEST_P(AttentionGpu, NormalisedKeysDrawnApart) {
  for (const unsigned percent : {30u, 50u, 70u})
    for (const int64_t D : {64, 128})
      check({1, 2500, 3, D}, 1, Keys::kNormalised, percent != 50, concat("drop ", percent), [&](SegmentArrays& s) {
        std::mt19937_64 random(percent);
        for (const Array* ids : {&s.q_segment, &s.k_segment})
          for (int64_t row = 0; row < ids->view().numel(); ++row)
            ids->as<uint16_t>()[row] = random() % 100 < percent ? kNoSegment : uint16_t{0};
      });
  // One head of many is untied by one row.
  check({1, 700, 20, 64}, 4, Keys::kNormalised, true, "one row", [](SegmentArrays& s) {
    segment_choices()[2].choose(s, 4, 5);
    uint16_t& id = s.k_segment.as<uint16_t>()[13 * 700 + 350];
    id = static_cast<uint16_t>((id + 1) % 4);
  });
}

// Enough segments that single-block ones are taken whole, with multi-block ones beside them.
TEST_P(AttentionGpu, ManySegments) {
  for (const int64_t D : {64, 128}) {
    const int64_t rows = single_block_max_rows_of(D);
    for (const SegmentChoice& choice : segment_choices())
      for (const bool self : {false, true}) {
        check({1, 200, 66, D}, 4, Keys::kPart, self, choice.name, chosen(choice, 4));
        if (choice.name == "untied")
          for (const Keys keys : {Keys::kBeside, Keys::kNormalised})
            check({1, rows + 1, 66, D}, 4, keys, self, choice.name, chosen(choice, 4));
      }
    const std::vector<int64_t> sizes = {1, 63, 64, 65, 191, 192, 193, rows - 1, rows, rows + 1, 640, 0};
    for (const Keys keys : {Keys::kPart, Keys::kNormalised})
      for (const bool self : {false, true}) check({1, 6 * rows + 1, 22, D}, 13, keys, self, "sizes", of_sizes(sizes));
  }
}

TEST_P(AttentionGpu, SizesOfBuckets) {
  const std::vector<int64_t> sizes = {1, 63, 64, 65, 511, 512, 513, 640, 641, 0, 127};
  for (const bool self : {false, true}) check({1, 4097, 2, 64}, 12, Keys::kBeside, self, "sizes", of_sizes(sizes));
  check({1, 4097, 1, 128}, 12, Keys::kPart, true, "sizes", of_sizes(sizes));
}

TEST_P(AttentionGpu, LongestSequence) {
  const SegmentChoice& tied = segment_choices()[2];
  check({1, 131072, 1, 64}, 64, Keys::kBeside, false, tied.name, chosen(tied, 64));
}

TEST_P(AttentionGpu, ThousandsOfSegments) {
  const SegmentChoice& tied = segment_choices()[2];
  check({1, 8192, 2, 64}, 4096, Keys::kBeside, true, tied.name, chosen(tied, 4096));
}

TEST_P(AttentionGpu, LargeScores) {
  // Scores around a hundred: without their maximum taken off, exponentials would overflow. Probabilities are nearly one
  // and nearly zero, and their gradients what is left of that.
  check({1, 200, 1, 64}, 1, Keys::kPart, true, "one", chosen(segment_choices()[0], 1), 4.0);
}

TEST_P(AttentionGpu, ScoresThatGrow) {
  // Later keys have higher and higher scores: what was taken off the first ones is far too little for the last.
  for (const int64_t D : {64, 128})
    for (const bool self : {false, true}) {
      const AttentionShape shape{1, 1500, 2, D};
      check(shape, 2, Keys::kPart, self, "growing", chosen(segment_choices()[2], 2), 1.0, [&](const Set& set) {
        std::vector<double> values = set.qkv.values();
        for (int64_t t = 0; t < shape.T; ++t)
          for (int64_t i = 0; i < 2 * shape.H * D; ++i) {  // queries and keys point the same way and grow
            double& x = values[static_cast<size_t>(t * 3 * shape.H * D + i)];
            x = x * 0.05 + 6.0 * static_cast<double>(t) / static_cast<double>(shape.T);
          }
        return values;
      });
    }
}

// Shapes, segments and skew at random. SCFA_RANDOM_CASES says how many, SCFA_RANDOM_SEED which.
TEST_P(AttentionGpu, RandomCases) {
  const auto setting = [](const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::atoi(text) : otherwise;
  };
  const int cases = setting("SCFA_RANDOM_CASES", 30), seed = setting("SCFA_RANDOM_SEED", 1);
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    const int64_t D = below(4) > 0 ? 64 : below(2) > 0 ? 128 : 8 + 8 * below(16);
    const int64_t T = 1 + (below(16) > 0 ? below(400) : below(2500)), B = 1 + below(2), H = 1 + below(T < 200 ? 12 : 3);
    const int64_t count = below(3) > 0 ? 1 + below(16) : 1 + below(200);
    const auto keys = static_cast<Keys>(below(3));
    const unsigned dropped = below(2) > 0 ? 0 : static_cast<unsigned>(below(101));  // percent
    const auto skew = static_cast<unsigned>(below(101));                            // percent in segment 0
    const bool tied = below(2) > 0;
    const auto choose = [&](SegmentArrays& s) {
      std::mt19937_64 draw(static_cast<uint64_t>(seed) * 1000000 + static_cast<uint64_t>(i));
      for (int64_t row = 0; row < s.q_segment.view().numel(); ++row)
        for (const Array* ids : {&s.q_segment, &s.k_segment}) {
          const uint64_t id = draw() % 100 < skew ? 0 : draw() % static_cast<uint64_t>(count);
          ids->as<uint16_t>()[row] = draw() % 100 < dropped ? kNoSegment : static_cast<uint16_t>(id);
          if (tied) {
            s.k_segment.as<uint16_t>()[row] = s.q_segment.as<uint16_t>()[row];
            break;
          }
        }
    };
    check({B, T, H, D}, count, keys, below(2) > 0,
          concat("case ", i, " of seed ", seed, ", dropped ", dropped, ", skew ", skew, ", tied ", tied), choose);
  }
}

TEST_P(AttentionGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const AttentionShape shape{1, 8, 1, 136};
  const Set set(DType::kBF16, shape, false);
  const GpuCopy out(ctx, set.out), lse(ctx, set.lse), qkv(ctx, set.qkv);
  Arena arena(Device::kGpu, 1 << 20);
  const Segments segments = plan_segments(arena, 1, 1, 8, 136, 1);
  const Tensor scratch = arena.take("scratch", DType::kF32, {attention_scratch(ctx, segments, 136)}),
               q = part_of(qkv, 0);
  EXPECT_TRUE(fails_naming([&] { attention_forward(ctx, out, lse, q, q, q, segments, 1.0f, scratch); },
                           {"attention_forward", "head dim", "136"}));
}

}  // namespace
}  // namespace scfa::test

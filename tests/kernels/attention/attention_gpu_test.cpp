// The GPU implementation of attention against the CPU implementation in f32 on the same inputs, rounded to bf16, and
// against the formulas in double where T is small. What is allowed is what rounding probabilities and results to bf16
// costs.
#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <random>

#include "support/compare.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

constexpr uint64_t kSeed = 100;
constexpr double kOut = 4e-3, kGradient = 8e-3, kLse = 1e-3;

testing::AssertionResult close_lse(const std::vector<double>& got, const std::vector<double>& want) {
  for (size_t i = 0; i < got.size(); ++i)
    if (!(got[i] == want[i] || std::abs(got[i] - want[i]) < kLse * std::max(1.0, std::abs(want[i]) / 8)))
      return testing::AssertionFailure() << "lse " << i << " is " << got[i] << ", not " << want[i];
  return testing::AssertionSuccess();
}

// What a case is about besides the problem itself.
struct Inputs {
  double scale = 1.0;
  std::function<void(const AttentionTensors&)> change = nullptr;  // after they were drawn
};

// The same inputs each time.
void fill(const AttentionTensors& t, const Inputs& with) {
  if (with.change) with.change(t);
  if (t.document_start) t.write(t.document_start, document_starts(t.shape().B, t.shape().T, 3));
  if (t.shared_qk()) t.set_normalised_keys();
}

// Forward and backward on the device with fresh memory; what they left, in memory's order.
std::vector<Array> run_again(const AttentionProblem& problem, const std::vector<ChooseSegments>& choose,
                             const Inputs& with) {
  Context ctx(Device::kGpu);
  const AttentionTensors t(ctx, problem, kSeed, with.scale);
  fill(t, with);
  t.set_segments(choose);
  t.forward();
  t.backward();
  return t.result_arrays();
}

void expect_close(const AttentionTensors& got, const AttentionTensors& want, double scale_of_inputs) {
  // Gradients of scores are differences of terms of size one: dq of a query that sees one key is what is left of them.
  const double unit = 0.5 * scale_of_inputs;
  const auto R = static_cast<double>(got.layer.relations.size());  // each rounds its results once more
  EXPECT_TRUE(close(got.read(got.out), want.read(want.out), R * kOut));
  EXPECT_TRUE(close_lse(got.read(got.lse), want.read(want.lse)));
  EXPECT_TRUE(close(got.read(got.dq), want.read(want.dq), R * kGradient, unit)) << "dq";
  if (!got.shared_qk()) {
    EXPECT_TRUE(close(got.read(got.dk), want.read(want.dk), R * kGradient, unit)) << "dk";
  }
  EXPECT_TRUE(close(got.read(got.dv), want.read(want.dv), R * kGradient)) << "dv";
}

// choose: of each relation.
void check(const AttentionProblem& problem, const std::string& name, const std::vector<ChooseSegments>& choose,
           const Inputs& with = {}) {
  const AttentionShape& shape = problem.shape;
  SCOPED_TRACE(concat(name, ", B ", shape.B, ", T ", shape.T, ", H ", shape.H, ", H_kv ", shape.kv_heads(), ", D ",
                      shape.D, ", ", problem.segments, " segments, self ", attends_self(problem.patterns[0]),
                      ", layout ", static_cast<int>(problem.layout), ", strided out ", problem.strided_out));
  Context ctx(Device::kGpu), cpu;
  const AttentionTensors got(ctx, problem, kSeed, with.scale);
  fill(got, with);
  got.set_segments(choose);
  got.forward();
  got.backward();
  EXPECT_TRUE(same_results(got.result_arrays(), run_again(problem, choose, with)));
  EXPECT_TRUE(got.bystanders_intact());

  const AttentionTensors want(cpu, problem, kSeed);
  want.copy_inputs(got);
  if (want.document_start) want.write(want.document_start, got.read(got.document_start));
  want.set_segments(choose);
  want.forward();
  want.backward();
  expect_close(got, want, with.scale);
  if (shape.T > 129) return;
  const AttentionFormula formula(shape, want.read(want.q), want.read(want.k), want.read(want.v), want.visible(),
                                 static_cast<double>(want.scale));
  const auto R = static_cast<double>(want.layer.relations.size());
  EXPECT_TRUE(close(got.read(got.out), formula.out, R * kOut)) << "out, formula";
  EXPECT_TRUE(close_lse(got.read(got.lse), formula.lse));
}

void check(const AttentionProblem& problem, const std::string& name, const ChooseSegments& choose,
           const Inputs& with = {}) {
  check(problem, name, std::vector{choose}, with);
}

// One of the segment_choices().
void check(const AttentionProblem& problem, const SegmentChoice& choice) {
  check(problem, choice.name, chosen(choice, problem.segments, 11));
}

// Segments of the given sizes and the rest in the last one, at positions in random order.
ChooseSegments of_sizes(std::vector<int64_t> sizes) {
  return [sizes](SegmentIds& s) {
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
          check(problem_of({1 + T % 2, T, 2, D}, self ? kQv : kQkv, count, self), choice);
        }
}

TEST_P(AttentionGpu, NarrowHeads) {
  for (const int64_t D : {8, 24, 40, 72, 120})
    for (const SegmentChoice& choice : segment_choices())
      check(problem_of({2, 200, 3, D}, D == 24 ? kQv : kQkv, 3, true), choice);
}

// Layouts that models do not have, and out and dout in the middle of a tensor: strides are free.
TEST_P(AttentionGpu, AnyLayout) {
  for (const int64_t D : {40, 64, 128})
    for (const SegmentChoice& choice : segment_choices()) {
      check(problem_of({2, 300, 3, D}, kSeparate, 3, true), choice);
      check(problem_of({2, 300, 3, D}, kByHead, 3, false), choice);
      for (const AttentionLayout layout : {kQkv, kQv, kSharedQk})
        check(problem_of({2, 300, 3, D}, layout, 3, true, true), choice);
    }
}

TEST_P(AttentionGpu, LongerSequences) {
  for (const SegmentChoice& choice : segment_choices()) {
    check(problem_of({1, 1000, 12, 64}, kQv, 16, false), choice);
    check(problem_of({2, 4097, 1, 64}, kQkv, 8, true), choice);
    check(problem_of({1, 1000, 2, 128}, kQkv, 64, false), choice);
  }
  check(problem_of({1, 8192, 2, 64}, kQkv, 1, true), segment_choices()[0]);
  check(problem_of({1, 4096, 1, 128}, kQkv, 1, true), segment_choices()[0]);
}

TEST_P(AttentionGpu, NormalisedKeys) {
  for (const SegmentChoice& choice : segment_choices()) {
    for (const bool self : {false, true})
      for (const int64_t D : {64, 40, 128})
        for (const int64_t T : {1, 129, 300}) check(problem_of({1, T, 18, D}, kSharedQk, 4, self), choice);
    check(problem_of({2, 1000, 9, 64}, kSharedQk, 4, false), choice);
    check(problem_of({1, 4097, 2, 64}, kSharedQk, 4, false), choice);
  }
}

// As the drop pattern does it: queries and keys are drawn apart, and most queries see keys of other tiles only.
TEST_P(AttentionGpu, NormalisedKeysDrawnApart) {
  for (const unsigned percent : {30u, 50u, 70u})
    for (const int64_t D : {64, 128})
      check(problem_of({1, 2500, 3, D}, kSharedQk, 1, percent != 50), concat("drop ", percent), [&](SegmentIds& s) {
        std::mt19937_64 random(percent);
        for (const Array* ids : {&s.q_segment, &s.k_segment})
          for (int64_t row = 0; row < ids->view().numel(); ++row)
            ids->as<uint16_t>()[row] = random() % 100 < percent ? kNoSegment : uint16_t{0};
      });
  // One head of many is untied by one row.
  check(problem_of({1, 700, 20, 64}, kSharedQk, 4, true), "one row", [](SegmentIds& s) {
    segment_choices()[2].choose(s, 4, 5);
    uint16_t& id = s.k_segment.as<uint16_t>()[13 * 700 + 350];
    id = static_cast<uint16_t>((id + 1) % 4);
  });
}

// Enough segments that single-block ones are taken whole, with multi-block ones beside them.
// Several tests instead of one, so that shards share the time of the CPU's results.
void check_many_segments(int64_t D) {
  const int64_t rows = single_block_max_rows_of(D);
  for (const SegmentChoice& choice : segment_choices())
    for (const bool self : {false, true}) {
      check(problem_of({1, 200, 66, D}, kQkv, 4, self), choice);
      if (choice.name == "untied")
        for (const AttentionLayout layout : {kQv, kSharedQk})
          check(problem_of({1, rows + 1, 66, D}, layout, 4, self), choice);
    }
}

TEST_P(AttentionGpu, ManySegments) {
  check_many_segments(64);
}

TEST_P(AttentionGpu, ManySegmentsOfWideHeads) {
  check_many_segments(128);
}

void check_sizes_around_a_block(int64_t D) {
  const int64_t rows = single_block_max_rows_of(D);
  const std::vector<int64_t> sizes = {1, 63, 64, 65, 191, 192, 193, rows - 1, rows, rows + 1, 640, 0};
  for (const AttentionLayout layout : {kQkv, kSharedQk})
    for (const bool self : {false, true})
      check(problem_of({1, 6 * rows + 1, 22, D}, layout, 13, self), "sizes", of_sizes(sizes));
}

TEST_P(AttentionGpu, SegmentsAroundABlock) {
  check_sizes_around_a_block(64);
}

TEST_P(AttentionGpu, SegmentsOfWideHeadsAroundABlock) {
  check_sizes_around_a_block(128);
}

TEST_P(AttentionGpu, SizesOfBuckets) {
  const std::vector<int64_t> sizes = {1, 63, 64, 65, 511, 512, 513, 640, 641, 0, 127};
  for (const bool self : {false, true}) check(problem_of({1, 4097, 2, 64}, kQv, 12, self), "sizes", of_sizes(sizes));
  check(problem_of({1, 4097, 1, 128}, kQkv, 12, true), "sizes", of_sizes(sizes));
}

AttentionProblem with_window(AttentionProblem problem, int64_t window) {
  problem.patterns[0].window = window;
  return problem;
}

// Where blocks share sums of dq, where a block takes a segment whole, and windows longer and shorter than a tile.
TEST_P(AttentionGpu, WindowsOfLongSequences) {
  for (const int64_t D : {64, 128})
    for (const AttentionLayout layout : {kQkv, kSharedQk}) {
      for (const int64_t window : {17, 256, 1000})
        check(with_window(problem_of({1, 3001, 2, D}, layout, 1, true), window), segment_choices()[0]);
      for (const SegmentChoice& choice : segment_choices())
        check(with_window(problem_of({2, 1000, 2, D}, layout, 4, layout == kQkv), 256), choice);
      check(with_window(problem_of({1, 1000, 70, D}, layout, 4, layout == kQkv), 300), segment_choices()[2]);
    }
}

// Windows, documents, relations and mixtures: few tiles and many, segments taken whole beside others, narrow heads.
const std::vector<AttentionShape> kVisibilityShapes = {
    {2, 129, 3, 64}, {1, 400, 3, 128}, {1, 1000, 3, 64}, {2, 300, 4, 40}, {1, 300, 66, 64}};

TEST_P(AttentionGpu, WhatQueriesSee) {
  for (const AttentionShape& shape : kVisibilityShapes)
    for (const VisibilityCase& c : visibility_cases(shape, kQkv)) check(c.problem, c.name, c.choose);
}

TEST_P(AttentionGpu, WhatQueriesSeeOfSharedKeys) {
  for (const AttentionShape& shape : kVisibilityShapes)
    for (const VisibilityCase& c : visibility_cases(shape, kSharedQk)) check(c.problem, c.name, c.choose);
}

TEST_P(AttentionGpu, WhatQueriesSeeInLongSequences) {
  for (const VisibilityCase& c : visibility_cases({1, 4097, 3, 64}, kQkv))
    if (c.problem.relations < 3) check(c.problem, c.name, c.choose);
}

TEST_P(AttentionGpu, GroupedHeads) {
  for (const int64_t D : {8, 64, 128})
    for (const int64_t kv_heads : {1, 2, 3, 6})
      for (const SegmentChoice& choice : segment_choices()) {
        check(problem_of({2, 129, 6, D, kv_heads}, kQkv, 4, true), choice);
        check(problem_of({1, 700, 6, D, kv_heads}, kByHead, 4, false), choice);
      }
  check(problem_of({1, 4097, 6, 64, 2}, kQkv, 1, true), segment_choices()[0]);
  check(problem_of({1, 2049, 66, 64, 11}, kQv, 4, true, true), segment_choices()[2]);  // whole segments by a block
}

TEST_P(AttentionGpu, DocumentsApart) {
  const auto documents = [](const AttentionTensors& t) {
    const auto [B, T, H, width, kv_heads] = t.shape();
    std::vector<double> starts;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0, start = 0; i < T; ++i) {
        starts.push_back(static_cast<double>(start));
        if (i * i % 61 == b) start = i + 1;
      }
    t.write(t.document_start, starts);
  };
  for (const int64_t D : {64, 128})
    for (const int64_t kv_heads : {2, 4})
      for (const int64_t window : {0, 40})
        for (const SegmentChoice& choice : segment_choices()) {
          AttentionProblem problem = problem_of({2, 700, 4, D, kv_heads}, kQkv, 4, true);
          problem.documents = true;
          problem.patterns[0].window = window;
          check(problem, choice.name, chosen(choice, 4, 11), {.change = documents});
        }
}

TEST_P(AttentionGpu, LongestSequence) {
  check(problem_of({1, 131072, 1, 64}, kQv, 64, false), segment_choices()[2]);
}

TEST_P(AttentionGpu, ThousandsOfSegments) {
  check(problem_of({1, 8192, 2, 64}, kQv, 4096, true), segment_choices()[2]);
}

TEST_P(AttentionGpu, LargeScores) {
  // Scores around a hundred: without their maximum taken off, exponentials would overflow. Probabilities are nearly one
  // and nearly zero, and their gradients what is left of that.
  check(problem_of({1, 200, 1, 64}, kQkv, 1, true), "one", chosen(segment_choices()[0], 1, 11), {.scale = 4.0});
}

TEST_P(AttentionGpu, ScoresThatGrow) {
  // Later keys have higher and higher scores: what was taken off the first ones is far too little for the last.
  for (const int64_t D : {64, 128})
    for (const bool self : {false, true}) {
      const auto grow = [](const AttentionTensors& t) {
        const auto [B, T, H, width, kv_heads] = t.shape();
        std::vector<double> values = t.read(t.inputs.front());
        for (int64_t token = 0; token < T; ++token)
          for (int64_t i = 0; i < 2 * H * width; ++i) {  // queries and keys point the same way and grow
            double& x = values[static_cast<size_t>(token * 3 * H * width + i)];
            x = x * 0.05 + 6.0 * static_cast<double>(token) / static_cast<double>(T);
          }
        t.write(t.inputs.front(), values);
      };
      check(problem_of({1, 1500, 2, D}, kQkv, 2, self), "growing", chosen(segment_choices()[2], 2, 11),
            {.change = grow});
    }
}

// Ids of segments at random. dropped: percent of the rows; skew: percent of them that are in segment 0; tied: query and
// key of a row are in the same one.
ChooseSegments random_segments(uint64_t seed, uint64_t count, unsigned dropped, unsigned skew, bool tied) {
  return [=](SegmentIds& s) {
    std::mt19937_64 draw(seed);
    for (int64_t row = 0; row < s.q_segment.view().numel(); ++row)
      for (const Array* ids : {&s.q_segment, &s.k_segment}) {
        const uint64_t id = draw() % 100 < skew ? 0 : draw() % count;
        ids->as<uint16_t>()[row] = draw() % 100 < dropped ? kNoSegment : static_cast<uint16_t>(id);
        if (tied) {
          s.k_segment.as<uint16_t>()[row] = s.q_segment.as<uint16_t>()[row];
          break;
        }
      }
  };
}

// Shapes, segments, skew, relations, windows and documents at random. SCFA_RANDOM_CASES says how many, SCFA_RANDOM_SEED
// which.
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
    const AttentionLayout layout = std::array{kQkv, kQv, kSharedQk}[static_cast<size_t>(below(3))];
    const unsigned dropped = below(2) > 0 ? 0 : static_cast<unsigned>(below(101));  // percent
    const auto skew = static_cast<unsigned>(below(101));                            // percent in segment 0
    const bool tied = below(2) > 0;
    const int64_t relations = below(4) > 0 ? 1 : 2 + below(2);
    std::vector<ChooseSegments> choose;
    for (int64_t r = 0; r < relations; ++r)
      choose.push_back(random_segments(static_cast<uint64_t>(seed) * 1000000 + static_cast<uint64_t>(3 * i + r),
                                       static_cast<uint64_t>(count), dropped, skew, tied));
    const auto visible = [&] { return Visibility{below(2) > 0, below(3) > 0 ? 0 : 1 + below(400)}; };
    std::vector<Visibility> by_head{visible()};
    if (H > 1 && below(3) == 0) {
      by_head[0].heads = 1 + below(H - 1);
      by_head.push_back(visible());
    }
    const AttentionProblem problem{.shape = {B, T, H, D},
                                   .layout = layout,
                                   .patterns = patterns_with(by_head, relations),
                                   .segments = count,
                                   .relations = relations,
                                   .documents = below(4) == 0};
    check(problem,
          concat("case ", i, " of seed ", seed, ", dropped ", dropped, ", skew ", skew, ", tied ", tied, ", ",
                 relations, " relations, documents ", problem.documents, ", ", describe(problem.patterns)),
          choose);
  }
}

TEST_P(AttentionGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const AttentionTensors t(ctx, problem_of({1, 8, 1, 136}, kQkv, 1, true), kSeed);
  EXPECT_TRUE(fails_naming([&] { t.forward(); }, {"attention_forward", "head dim", "136"}));
}

}  // namespace
}  // namespace scfa::test

// The GPU implementations of patterns against the CPU implementations: drops bit for bit, buckets wherever rounding
// cannot decide.
#include "kernels/attention/patterns/assign.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention/normalise.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

class PatternsGpu : public GpuTest {};

Array samples_of(const std::vector<int32_t>& samples) {
  Array array(DType::kI32, {static_cast<int64_t>(samples.size())});
  array.assign({samples.begin(), samples.end()});
  return array;
}

TEST_F(PatternsGpu, NormalisesKeysInTheSamePass) {
  Context cpu, ctx(Device::kGpu);
  for (const char* name : {"hash", "dense", "drop"})
    for (const int64_t D : {8, 64, 72, 128})
      for (const int64_t T : {1, 127, 300}) {
        SCOPED_TRACE(concat(name, ", T ", T, ", D ", D));
        const AttentionPattern pattern{.pattern = name, .buckets = 8, .attend_self = {}};
        const int64_t B = 2, H = 3;
        Array rows(DType::kBF16, {B, T, 2, H, D}), f32({B, T, 2, H, D});
        const Array projections({1, H, 4, D}), samples = samples_of({0, 1});
        rows.fill_normal(5);
        f32.assign(rows.values());
        draw_projections(cpu, projections, 1, 2, 3);
        const Array keys(DType::kBF16, {B, T, H, D}), norm({B, T, H}), want_keys({B, T, H, D}), want_norm({B, T, H});
        const Array q(DType::kU16, {B, H, T}), alone(DType::kU16, {B, H, T}), k(DType::kU16, {B, H, T});
        const GpuCopy rows_gpu(ctx, rows), projections_gpu(ctx, projections), samples_gpu(ctx, samples),
            keys_gpu(ctx, keys), norm_gpu(ctx, norm), q_gpu(ctx, q), k_gpu(ctx, k), alone_gpu(ctx, alone);
        const PatternInput input{.q = part_of(rows_gpu, 0),
                                 .k = {},
                                 .projections = projections_gpu,
                                 .samples = samples_gpu,
                                 .seed = 1,
                                 .step = 2,
                                 .layer = 3};
        const Segments relation = ids_alone(q_gpu, k_gpu), other = ids_alone(alone_gpu, k_gpu);
        assign_segments_and_normalise_keys(ctx, {&relation, 1}, keys_gpu, norm_gpu, pattern, input);
        assign_segments(ctx, {&other, 1}, pattern, input);
        q_gpu.download(q), alone_gpu.download(alone), keys_gpu.download(keys), norm_gpu.download(norm);
        EXPECT_TRUE(q.same_bits(alone));
        normalise_keys(cpu, want_keys, want_norm, part_of(f32, 0));
        EXPECT_TRUE(close(keys, want_keys.values(), 3e-3));
        EXPECT_TRUE(close(norm, want_norm.values(), 1e-5));
      }
}

TEST_F(PatternsGpu, DirectionsEqualTheCpu) {
  Context cpu, ctx(Device::kGpu);
  for (const int64_t H : {1, 3, 12})
    for (const int64_t half : {1, 3, 8, 32})
      for (const int64_t D : {8, 33, 64, 72, 128}) {  // odd D: pairs of normals straddle directions
        SCOPED_TRACE(concat("H ", H, ", half ", half, ", D ", D));
        const Array got({2, H, half, D}), again({2, H, half, D}), want({2, H, half, D});
        const GpuCopy got_gpu(ctx, got), again_gpu(ctx, again);
        draw_projections(cpu, want, 0x123456789ABCDEF, 7, 3);
        draw_projections(ctx, got_gpu, 0x123456789ABCDEF, 7, 3);
        draw_projections(ctx, again_gpu, 0x123456789ABCDEF, 7, 3);
        got_gpu.download(got), again_gpu.download(again);
        EXPECT_TRUE(close(got, want.values(), 1e-6));
        EXPECT_TRUE(got.same_bits(again));
      }
}

// Segments chosen on the GPU. A fresh copy of everything each time.
struct Chosen {
  Array q, k;
  Chosen(Context& ctx, const AttentionPattern& pattern, const Array& rows, bool with_keys, const Array& projections,
         const std::vector<int32_t>& samples, int64_t first = 0)
      : q(DType::kU16, {rows.view().size(0), rows.view().size(3), rows.view().size(1)}),
        k(DType::kU16, {rows.view().size(0), rows.view().size(3), rows.view().size(1)}) {
    const GpuCopy rows_gpu(ctx, rows), projections_gpu(ctx, projections), samples_gpu(ctx, samples_of(samples));
    const GpuCopy q_gpu(ctx, q), k_gpu(ctx, k);
    const Segments relation = ids_alone(q_gpu, k_gpu);
    assign_segments(ctx, {&relation, 1}, pattern,
                    {.q = part_of(rows_gpu, 0),
                     .k = with_keys ? ConstTensor(part_of(rows_gpu, 1)) : ConstTensor(),
                     .projections = needs_projections(pattern) ? ConstTensor(projections_gpu) : ConstTensor(),
                     .samples = samples_gpu,
                     .seed = 1,
                     .step = 2,
                     .layer = 3,
                     .first_position = first});
    q_gpu.download(q), k_gpu.download(k);
  }
};

// Checks the buckets of x, (B, T, H, D), by definition; returns how many differ from the one with the largest score.
int64_t check_buckets(const Array& ids, const ConstTensor& x, const Array& projections) {
  const int64_t T = x.size(1), H = x.size(2), D = x.size(3), half = projections.view().size(2);
  const std::vector<double> rows = values(x), r = projections.values();
  std::vector<double> score(static_cast<size_t>(2 * half));
  int64_t other = 0;
  for (int64_t row = 0; row < x.size(0) * T * H; ++row) {
    const int64_t b = row / (T * H), t = row / H % T, h = row % H;
    for (int64_t c = 0; c < half; ++c) {
      double y = 0.0;
      for (int64_t d = 0; d < D; ++d) y += rows.data()[row * D + d] * r.data()[(h * half + c) * D + d];
      score.data()[c] = y, score.data()[c + half] = -y;
    }
    const int64_t id = ids.as<uint16_t>()[(b * H + h) * T + t];
    const auto best = std::max_element(score.begin(), score.end());
    EXPECT_LT(id, 2 * half);
    if (id >= 2 * half) return row;
    EXPECT_NEAR(score.data()[id], *best, 1e-5) << "row " << row;
    other += id != best - score.begin();
  }
  return other;
}

TEST_F(PatternsGpu, BucketsAreTheArgmax) {
  Context cpu, ctx(Device::kGpu);
  for (const int64_t buckets : {2, 6, 16, 64})
    for (const int64_t D : {8, 64, 72, 128})
      for (const int64_t T : {1, 127, 128, 129, 1000}) {
        SCOPED_TRACE(concat(buckets, " buckets, D ", D, ", T ", T));
        const int64_t B = 2, H = 3;
        Array rows(DType::kBF16, {B, T, 3, H, D});
        rows.fill_normal(5);
        const Array projections({1, H, buckets / 2, D});
        draw_projections(cpu, projections, 1, 2, 3);
        const Chosen apart(ctx, hash_pattern(buckets), rows, true, projections, {0, 1}),
            again(ctx, hash_pattern(buckets), rows, true, projections, {0, 1}),
            shared(ctx, hash_pattern(buckets), rows, false, projections, {0, 1});
        EXPECT_LE(check_buckets(apart.q, part_of(rows, 0), projections), 2);
        EXPECT_LE(check_buckets(apart.k, part_of(rows, 1), projections), 2);
        EXPECT_TRUE(apart.q.same_bits(again.q) && apart.k.same_bits(again.k));
        EXPECT_TRUE(shared.q.same_bits(apart.q) && shared.k.same_bits(apart.q));
      }
}

TEST_F(PatternsGpu, TiesGoToTheLowestBucket) {
  Context ctx(Device::kGpu);
  Array rows(DType::kBF16, {1, 4, 1, 1, 8}), r({1, 1, 3, 8});
  rows.fill(0), r.fill(0);
  std::vector<double> x(32), directions(24);
  x[8] = 1, x[16] = -1, x[25] = -1;                          // none, +first, -first, -second axis
  directions[1] = 1, directions[8] = 1, directions[16] = 1;  // the second and third direction are the same
  rows.assign(x), r.assign(directions);
  const Chosen chosen(ctx, hash_pattern(6), rows, false, r, {0});
  EXPECT_EQ(chosen.q.values(), (std::vector<double>{0, 1, 4, 3}));
}

TEST_F(PatternsGpu, DropsEqualTheCpu) {
  Context cpu, ctx(Device::kGpu);
  const std::vector<int32_t> samples = {7, 0, 123456};
  for (const double rate : {0.0, 0.3, 0.5, 1.0})
    for (const int64_t T : {1, 63, 1025})
      for (const int64_t first : {0, 1, 38, 1000}) {
        SCOPED_TRACE(concat("rate ", rate, ", T ", T, ", first ", first));
        const Array rows(DType::kBF16, {3, T, 1, 5, 8}), none({1}), q({3, T, 5, 8});
        const Chosen got(ctx, drop_pattern(rate), rows, false, none, samples, first);
        Draw draw{.q = q, .samples = samples, .first_position = first};
        draw.seed = 1, draw.step = 2, draw.layer = 3;
        const ChosenSegments want(drop_pattern(rate), draw);
        EXPECT_TRUE(got.q.same_bits(want.q));
        EXPECT_TRUE(got.k.same_bits(want.k));
      }
}

TEST_F(PatternsGpu, DenseAndOneBucketAreOneSegment) {
  Context ctx(Device::kGpu);
  const Array rows(DType::kBF16, {2, 65, 2, 3, 8}), none({1});
  for (const AttentionPattern& pattern : {AttentionPattern(), hash_pattern(1)}) {
    const Chosen chosen(ctx, pattern, rows, true, none, {0, 1});
    EXPECT_EQ(chosen.q.values(), std::vector<double>(2 * 65 * 3, 0.0));
    EXPECT_EQ(chosen.k.values(), std::vector<double>(2 * 65 * 3, 0.0));
  }
}

TEST_F(PatternsGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const std::pair<DType, int64_t> cases[] = {{DType::kBF16, 12}, {DType::kBF16, 136}, {DType::kF32, 64}};
  for (const auto& [dtype, D] : cases) {
    const Array rows(dtype, {1, 9, 1, 2, D}), projections({1, 2, 4, D});
    EXPECT_TRUE(fails_naming([&] { Chosen(ctx, hash_pattern(8), rows, false, projections, {0}); },
                             {"assign_segments", "bf16", "multiple of 8", concat(", ", D, "]").c_str()}));
  }
  const Array q(DType::kBF16, {1, 8, 2, 8}), ids(DType::kU16, {1, 2, 8});
  const GpuCopy q_gpu(ctx, q), ids_gpu(ctx, ids);
  const Array samples = samples_of({0});  // on the CPU
  EXPECT_TRUE(fails_naming(
      [&] {
        const Segments relation = ids_alone(ids_gpu, ids_gpu);
        assign_segments(ctx, {&relation, 1}, {},
                        {.q = q_gpu, .k = {}, .projections = {}, .samples = samples, .seed = 0, .step = 0, .layer = 0});
      },
      {"assign_segments", "runs on the gpu", "i32[1] on cpu"}));
}

}  // namespace
}  // namespace scfa::test

// The GPU implementations of cache_append and attention_decode against the CPU implementations on the same inputs,
// rounded to bf16.
#include "kernels/attention/decode.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <random>

#include "kernels/attention/segments.h"
#include "support/compare.h"
#include "support/decoding.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr double kRounding = 3e-3;  // to bf16, once

class DecodeGpu : public GpuTest {};

void draw(const Array& segments, uint64_t seed, uint64_t count, unsigned percent_dropped) {
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < segments.view().numel(); ++i)
    segments.as<uint16_t>()[i] =
        random() % 100 < percent_dropped ? kNoSegment : static_cast<uint16_t>(random() % count);
}

struct Case {
  int64_t H, S, D, n;
  uint64_t segments;
  unsigned percent_dropped;
  double scale_of_inputs = 1.0;
  int64_t kv_heads = 0;  // 0: H
};

void check(Context& ctx, const Case& c) {
  SCOPED_TRACE(concat("H ", c.H, ", S ", c.S, ", D ", c.D, ", n ", c.n, ", ", c.segments, " segments, ",
                      c.percent_dropped, "% dropped"));
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.D)));
  const int64_t heads = c.kv_heads > 0 ? c.kv_heads : c.H;
  Array q(DType::kBF16, {1, 1, 3, c.H, c.D}), keys(DType::kBF16, {heads, c.S, c.D}),
      rows(DType::kBF16, {heads, c.S, c.D});
  Array out(DType::kBF16, {1, 1, c.H, c.D}), again(DType::kBF16, {1, 1, c.H, c.D});
  const Array segments(DType::kU16, {1, c.H, c.S}), q_segment(DType::kU16, {1, c.H, 1});
  q.fill_normal(1, c.scale_of_inputs), keys.fill_normal(2, c.scale_of_inputs), rows.fill_normal(3);
  draw(segments, 4, c.segments, c.percent_dropped);
  draw(q_segment, 5, c.segments, 0);
  if (c.percent_dropped == 100) q_segment.as<uint16_t>()[0] = kNoSegment;  // dropped keys are not of its segment

  Context cpu;
  Array q_f32({1, 1, 3, c.H, c.D}), keys_f32({heads, c.S, c.D}), rows_f32({heads, c.S, c.D}), want({1, 1, c.H, c.D});
  q_f32.assign(q.values()), keys_f32.assign(keys.values()), rows_f32.assign(rows.values());
  decode(cpu, want, part_of(q_f32, 1), {keys_f32, rows_f32, segments}, q_segment, 0, c.n, scale);

  for (int64_t h = 0; h < heads; ++h) {  // what lies behind the n keys must not be read
    const int64_t from = (h * c.S + c.n) * c.D, count = (c.S - c.n) * c.D;
    std::fill_n(keys.bits() + from, count, uint16_t{0xFFFF});
    std::fill_n(rows.bits() + from, count, uint16_t{0xFFFF});
  }
  const GpuCopy q_gpu(ctx, q), keys_gpu(ctx, keys), rows_gpu(ctx, rows), segments_gpu(ctx, segments),
      q_segment_gpu(ctx, q_segment), out_gpu(ctx, out), again_gpu(ctx, again);
  const KeyValueCache cache{keys_gpu, rows_gpu, segments_gpu};
  decode(ctx, out_gpu, part_of(q_gpu, 1), cache, q_segment_gpu, 0, c.n, scale);
  decode(ctx, again_gpu, part_of(q_gpu, 1), cache, q_segment_gpu, 0, c.n, scale);
  out_gpu.download(out), again_gpu.download(again);
  EXPECT_TRUE(close(out, want.values(), kRounding));
  EXPECT_TRUE(out.same_bits(again));
}

TEST_F(DecodeGpu, EqualsTheCpu) {
  Context ctx(Device::kGpu);
  for (const int64_t D : {8, 24, 64, 72, 128})
    for (const int64_t n : {0, 1, 7, 8, 31, 32, 33, 511, 512, 513, 2000})
      for (const uint64_t segments : {1, 3, 64})
        for (const unsigned dropped : {0u, 60u, 100u}) check(ctx, {3, n + 5, D, n, segments, dropped});
  check(ctx, {1, 131072, 64, 131072, 1, 0});
  check(ctx, {12, 9000, 64, 8192, 16, 0});
  for (const int64_t kv_heads : {1, 2, 4}) check(ctx, {12, 900, 64, 819, 16, 20, 1.0, kv_heads});
  check(ctx, {2, 600, 64, 555, 2, 0, 8.0});  // scores in the hundreds: exponentials would overflow
}

// Two and three relations, ranges of keys by heads; out and lse.
TEST_F(DecodeGpu, RelationsAndRangesEqualTheCpu) {
  Context ctx(Device::kGpu), cpu;
  const int64_t H = 5, S = 700, D = 64;
  const HeadRanges by_head{{0, 600, 1}, {537, 600, 2}, {600, 600, 1}, {31, 599, 1}};
  for (const int64_t R : {1, 2, 3}) {
    Array q(DType::kBF16, {1, 1, H, D}), keys(DType::kBF16, {H, S, D}), rows(DType::kBF16, {H, S, D});
    q.fill_normal(1), keys.fill_normal(2), rows.fill_normal(3);
    const Array segments(DType::kU16, {R, H, S}), out(DType::kBF16, {1, 1, H, D}), lse({1, H, 1});
    draw(segments, 4, 3, 20);
    std::vector<Array> ids;
    for (int64_t r = 0; r < R; ++r) {
      ids.emplace_back(DType::kU16, std::initializer_list<int64_t>{1, H, 1});
      draw(ids.back(), static_cast<uint64_t>(5 + r), 3, 0);
    }
    Array q_f32({1, 1, H, D}), keys_f32({H, S, D}), rows_f32({H, S, D});
    q_f32.assign(q.values()), keys_f32.assign(keys.values()), rows_f32.assign(rows.values());
    const Array want({1, 1, H, D}), want_lse({1, H, 1});
    std::vector<Segments> relations(static_cast<size_t>(R)), relations_gpu(static_cast<size_t>(R));
    std::deque<GpuCopy> ids_gpu;
    for (size_t r = 0; r < relations.size(); ++r) {
      ids_gpu.emplace_back(ctx, ids[r]);
      relations[r].q_segment = ids[r];
      relations_gpu[r].q_segment = ids_gpu.back();
    }
    attention_decode(cpu, want, want_lse, q_f32, {keys_f32, rows_f32, segments}, relations, {&by_head, 1}, 0.125f);
    const GpuCopy q_gpu(ctx, q), keys_gpu(ctx, keys), rows_gpu(ctx, rows), segments_gpu(ctx, segments),
        out_gpu(ctx, out), lse_gpu(ctx, lse);
    attention_decode(ctx, out_gpu, lse_gpu, q_gpu, {keys_gpu, rows_gpu, segments_gpu}, relations_gpu, {&by_head, 1},
                     0.125f);
    out_gpu.download(out), lse_gpu.download(lse);
    EXPECT_TRUE(close(out, want.values(), static_cast<double>(R) * kRounding)) << R << " relations";
    EXPECT_TRUE(close(lse, want_lse.values(), 1e-4)) << R << " relations";
  }
}

TEST_F(DecodeGpu, AppendWritesOnePosition) {
  Context ctx(Device::kGpu);
  const int64_t H = 3, S = 5, position = 2;
  for (const int64_t D : {8, 64, 136}) {
    Array kv(DType::kBF16, {1, 1, 3, H, D});
    kv.fill_normal(1);
    Array keys(DType::kBF16, {H, S, D}), rows(DType::kBF16, {H, S, D}), segments(DType::kU16, {1, H, S});
    const Array keys_want(DType::kBF16, {H, S, D}), rows_want(DType::kBF16, {H, S, D}),
        segments_want(DType::kU16, {1, H, S}), k_segment(DType::kU16, {1, H, 1});
    for (int64_t h = 0; h < H; ++h) {
      std::copy_n(kv.bits() + (H + h) * D, D, keys_want.bits() + (h * S + position) * D);
      std::copy_n(kv.bits() + (2 * H + h) * D, D, rows_want.bits() + (h * S + position) * D);
      k_segment.as<uint16_t>()[h] = static_cast<uint16_t>(h + 10);
      segments_want.as<uint16_t>()[h * S + position] = static_cast<uint16_t>(h + 10);
    }
    const GpuCopy kv_gpu(ctx, kv), keys_gpu(ctx, keys), rows_gpu(ctx, rows), segments_gpu(ctx, segments),
        k_segment_gpu(ctx, k_segment);
    append(ctx, {keys_gpu, rows_gpu, segments_gpu}, position, part_of(kv_gpu, 1), part_of(kv_gpu, 2), k_segment_gpu);
    keys_gpu.download(keys), rows_gpu.download(rows), segments_gpu.download(segments);
    EXPECT_TRUE(keys.same_bits(keys_want));
    EXPECT_TRUE(rows.same_bits(rows_want));
    EXPECT_TRUE(segments.same_bits(segments_want));
  }
}

TEST_F(DecodeGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const std::pair<DType, int64_t> cases[] = {{DType::kBF16, 12}, {DType::kBF16, 136}, {DType::kF32, 64}};
  for (const auto& [dtype, D] : cases) {
    const Array q(dtype, {1, 1, 2, D}), keys(dtype, {2, 4, D}), segments(DType::kU16, {1, 2, 4}),
        q_segment(DType::kU16, {1, 2, 1});
    const GpuCopy q_gpu(ctx, q), keys_gpu(ctx, keys), segments_gpu(ctx, segments), q_segment_gpu(ctx, q_segment);
    const KeyValueCache cache{keys_gpu, keys_gpu, segments_gpu};
    EXPECT_TRUE(fails_naming([&] { decode(ctx, q_gpu, q_gpu, cache, q_segment_gpu, 0, 1, 1.0f); },
                             {"attention_decode", "q ", "bf16", "multiple of 8", concat(", ", D, "]").c_str()}));
    if (dtype == DType::kF32) {
      EXPECT_TRUE(fails_naming([&] { append(ctx, cache, 0, q_gpu, q_gpu, q_segment_gpu); },
                               {"cache_append", "k ", "bf16", "f32["}));
    }
  }
}

}  // namespace
}  // namespace scfa::test

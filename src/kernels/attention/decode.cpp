#include "kernels/attention/decode.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/combine.h"

namespace scfa {

namespace {

constexpr float kLog2E = 1.442695041f;

void check_cache(const char* op, const KeyValueCache& cache, std::span<const Segments> relations) {
  require(cache.keys.ndim == 3 && cache.keys.contiguous() && cache.values.contiguous() &&
              cache.values.same_shape(cache.keys) && cache.values.dtype == cache.keys.dtype,
          op, ": keys and values of the cache must be contiguous (H_kv, S, D), not ", cache.keys.describe(), " and ",
          cache.values.describe());
  const int64_t heads = cache.keys.size(0), S = cache.keys.size(1);
  const auto R = static_cast<int64_t>(relations.size());
  require(R >= 1 && R <= kMaxRelations, op, ": there must be 1 to ", kMaxRelations, " relations, not ", R);
  const int64_t H = cache.segments.ndim == 3 ? cache.segments.size(1) : heads;
  require(heads > 0 && H % heads == 0, op, ": the ", heads, " heads of keys and values must divide the ", H,
          " of segments");
  require_tensor(cache.segments, op, "segments", DType::kU16, {R, H, S});
}

// H: how many heads rows must have.
void check_rows(const char* op, const KeyValueCache& cache, const ConstTensor& rows, const char* name, int64_t H) {
  const int64_t D = cache.keys.size(2);
  if (rows.data == nullptr || !rows.has_shape({1, 1, H, D}) || rows.stride[3] != 1 || rows.dtype != cache.keys.dtype)
    fail(op, ": ", name, " must be ", name_of(cache.keys.dtype), "[1, 1, ", H, ", ", D, "], not ",
         rows.data == nullptr ? "empty" : rows.describe());
}

AttentionDecode& select_decode(const Context& ctx) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_decode;
  return cpu::attention_decode;
}

}  // namespace

KeyValueCache plan_cache(Arena& arena, DType dtype, int64_t H, int64_t S, int64_t D, int64_t relations,
                         int64_t kv_heads) {
  constexpr const char* kName = "keys and values";
  const int64_t heads = kv_heads > 0 ? kv_heads : H;
  return {arena.take(kName, dtype, {heads, S, D}), arena.take(kName, dtype, {heads, S, D}),
          arena.take(kName, DType::kU16, {relations, H, S})};
}

void cache_append(Context& ctx, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  std::span<const Segments> relations) {
  constexpr const char* kOp = "cache_append";
  check_cache(kOp, cache, relations);
  check_rows(kOp, cache, k, "k", cache.keys.size(0));
  check_rows(kOp, cache, v, "v", cache.keys.size(0));
  for (const Segments& segments : relations) {
    require_tensor(segments.k_segment, kOp, "k_segment", DType::kU16, {1, cache.segments.size(1), 1});
    ctx.require_here(kOp, {segments.k_segment});
  }
  require(position >= 0 && position < cache.keys.size(1), kOp, ": position ", position, " of a cache of ",
          cache.keys.size(1));
  ctx.require_here(kOp, {cache.keys, cache.values, cache.segments, k, v});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::cache_append(ctx, cache, position, k, v, relations);
  cpu::cache_append(ctx, cache, position, k, v, relations);
}

void attention_decode(Context& ctx, Tensor out, Tensor lse, ConstTensor q, const KeyValueCache& cache,
                      std::span<const Segments> relations, std::span<const HeadRanges> ranges, float scale) {
  constexpr const char* kOp = "attention_decode";
  check_cache(kOp, cache, relations);
  const int64_t H = cache.segments.size(1);
  check_rows(kOp, cache, q, "q", H);
  check_rows(kOp, cache, out, "out", H);
  for (const Segments& segments : relations) {
    require_tensor(segments.q_segment, kOp, "q_segment", DType::kU16, {1, H, 1});
    ctx.require_here(kOp, {segments.q_segment});
  }
  require(ranges.size() == 1 || ranges.size() == relations.size(), kOp, ": there must be ranges for 1 or ",
          relations.size(), " relations, not ", ranges.size());
  for (const HeadRanges& by_head : ranges) for_each_range(by_head, cache, [](int64_t, int64_t, const KeyRange&) {});
  if (lse || relations.size() > 1) require_tensor(lse, kOp, "lse", DType::kF32, {1, H, 1});
  ctx.require_here(kOp, {out, lse, q, cache.keys, cache.values, cache.segments});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  AttentionDecode& decode = select_decode(ctx);
  for (size_t r = 0; r < relations.size(); ++r)
    decode(ctx, out, lse, q, cache, cache.segments.select(static_cast<int64_t>(r)), relations[r].q_segment,
           ranges[std::min(r, ranges.size() - 1)], scale, r > 0);
}

namespace cpu {

void cache_append(Context& /*ctx*/, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  std::span<const Segments> relations) {
  const int64_t heads = cache.keys.size(0), S = cache.keys.size(1), D = cache.keys.size(2), H = cache.segments.size(1);
  for (int64_t h = 0; h < heads; ++h) {
    std::copy_n(k.as<float>() + h * k.stride[2], D, cache.keys.as<float>() + (h * S + position) * D);
    std::copy_n(v.as<float>() + h * v.stride[2], D, cache.values.as<float>() + (h * S + position) * D);
  }
  for (size_t r = 0; r < relations.size(); ++r)
    for (int64_t h = 0; h < H; ++h)
      cache.segments.as<uint16_t>()[(static_cast<int64_t>(r) * H + h) * S + position] =
          relations[r].k_segment.as<uint16_t>()[h];
}

namespace {

// One head. to: D elements. Returns lse.
float decode_head(float* to, const float* query, const float* keys, const float* values, const uint16_t* segments,
                  uint16_t wanted, const KeyRange& range, int64_t D, float scale) {
  float top = -INFINITY, sum = 0.0f;
  std::fill_n(to, D, 0.0f);
  for (int64_t j = range.begin; j < range.end; ++j) {  // online softmax: sums are rescaled when the maximum grows
    if (wanted == kNoSegment || segments[j] != wanted) continue;
    float score = 0.0f;
#pragma omp simd reduction(+ : score)
    for (int64_t d = 0; d < D; ++d) score += query[d] * keys[j * D + d];
    score *= scale;
    const float next = std::max(top, score);
    const float old = top == -INFINITY ? 0.0f : std::exp(top - next), weight = std::exp(score - next);
    for (int64_t d = 0; d < D; ++d) to[d] = to[d] * old + weight * values[j * D + d];
    sum = sum * old + weight;
    top = next;
  }
  if (!(sum > 0)) return INFINITY;
  for (int64_t d = 0; d < D; ++d) to[d] /= sum;
  return top * kLog2E + std::log2(sum);
}

}  // namespace

void attention_decode(Context& /*ctx*/, Tensor out, Tensor lse, ConstTensor q, const KeyValueCache& cache,
                      ConstTensor key_segment, ConstTensor q_segment, std::span<const KeyRange> by_head, float scale,
                      bool accumulate) {
  const int64_t S = cache.keys.size(1), D = cache.keys.size(2), group = q.size(2) / cache.keys.size(0);
  for_each_range(by_head, cache, [&](int64_t first, int64_t end, const KeyRange& range) {
#pragma omp parallel
    {
      std::vector<float> added(static_cast<size_t>(D));
#pragma omp for
      for (int64_t h = first; h < end; ++h) {
        const float head_lse =
            decode_head(added.data(), q.as<float>() + h * q.stride[2], cache.keys.as<float>() + h / group * S * D,
                        cache.values.as<float>() + h / group * S * D, key_segment.as<uint16_t>() + h * S,
                        q_segment.as<uint16_t>()[h], range, D, scale);
        float* row = out.as<float>() + h * out.stride[2];
        const CombineWeights weights = combine_weights(accumulate ? lse.as<float>()[h] : INFINITY, head_lse);
        for (int64_t d = 0; d < D; ++d)
          row[d] = (accumulate ? row[d] * weights.existing : 0.0f) + added[static_cast<size_t>(d)] * weights.added;
        if (lse) lse.as<float>()[h] = weights.lse;
      }
    }
  });
}

}  // namespace cpu
}  // namespace scfa

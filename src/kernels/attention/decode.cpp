#include "kernels/attention/decode.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention/segments.h"

namespace scfa {

namespace {

void check(const char* op, const KeyValueCache& cache, const ConstTensor& rows, const char* name) {
  require(cache.keys.ndim == 3 && cache.keys.contiguous() && cache.values.contiguous() &&
              cache.values.same_shape(cache.keys) && cache.values.dtype == cache.keys.dtype,
          op, ": keys and values of the cache must be contiguous (H, S, D), not ", cache.keys.describe(), " and ",
          cache.values.describe());
  const int64_t H = cache.keys.size(0), S = cache.keys.size(1), D = cache.keys.size(2);
  require_tensor(cache.segments, op, "segments", DType::kU16, {H, S});
  if (rows.data == nullptr || !rows.has_shape({1, 1, H, D}) || rows.stride[3] != 1 || rows.dtype != cache.keys.dtype)
    fail(op, ": ", name, " must be ", name_of(cache.keys.dtype), "[1, 1, ", H, ", ", D, "], not ",
         rows.data == nullptr ? "empty" : rows.describe());
}

}  // namespace

KeyValueCache plan_cache(Arena& arena, DType dtype, int64_t H, int64_t S, int64_t D) {
  constexpr const char* kName = "keys and values";
  return {arena.take(kName, dtype, {H, S, D}), arena.take(kName, dtype, {H, S, D}),
          arena.take(kName, DType::kU16, {H, S})};
}

void cache_append(Context& ctx, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  ConstTensor k_segment) {
  constexpr const char* kOp = "cache_append";
  check(kOp, cache, k, "k");
  check(kOp, cache, v, "v");
  require_tensor(k_segment, kOp, "k_segment", DType::kU16, {1, cache.keys.size(0), 1});
  require(position >= 0 && position < cache.keys.size(1), kOp, ": position ", position, " of a cache of ",
          cache.keys.size(1));
  ctx.require_here(kOp, {cache.keys, cache.values, cache.segments, k, v, k_segment});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::cache_append(ctx, cache, position, k, v, k_segment);
  cpu::cache_append(ctx, cache, position, k, v, k_segment);
}

void attention_decode(Context& ctx, Tensor out, ConstTensor q, const KeyValueCache& cache, ConstTensor q_segment,
                      int64_t begin, int64_t end, float scale) {
  constexpr const char* kOp = "attention_decode";
  check(kOp, cache, q, "q");
  check(kOp, cache, out, "out");
  require_tensor(q_segment, kOp, "q_segment", DType::kU16, {1, cache.keys.size(0), 1});
  require(begin >= 0 && begin <= end && end <= cache.keys.size(1), kOp, ": keys ", begin, " to ", end,
          " of a cache of ", cache.keys.size(1));
  ctx.require_here(kOp, {out, q, cache.keys, cache.values, cache.segments, q_segment});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_decode(ctx, out, q, cache, q_segment, begin, end, scale);
  cpu::attention_decode(ctx, out, q, cache, q_segment, begin, end, scale);
}

namespace cpu {

void cache_append(Context& /*ctx*/, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  ConstTensor k_segment) {
  const int64_t H = cache.keys.size(0), S = cache.keys.size(1), D = cache.keys.size(2);
  for (int64_t h = 0; h < H; ++h) {
    std::copy_n(k.as<float>() + h * k.stride[2], D, cache.keys.as<float>() + (h * S + position) * D);
    std::copy_n(v.as<float>() + h * v.stride[2], D, cache.values.as<float>() + (h * S + position) * D);
    cache.segments.as<uint16_t>()[h * S + position] = k_segment.as<uint16_t>()[h];
  }
}

void attention_decode(Context& /*ctx*/, Tensor out, ConstTensor q, const KeyValueCache& cache, ConstTensor q_segment,
                      int64_t begin, int64_t end, float scale) {
  const int64_t H = cache.keys.size(0), S = cache.keys.size(1), D = cache.keys.size(2);
#pragma omp parallel for
  for (int64_t h = 0; h < H; ++h) {
    const float *query = q.as<float>() + h * q.stride[2], *keys = cache.keys.as<float>() + h * S * D;
    const float* values = cache.values.as<float>() + h * S * D;
    const uint16_t* segments = cache.segments.as<uint16_t>() + h * S;
    const uint16_t wanted = q_segment.as<uint16_t>()[h];
    float *to = out.as<float>() + h * out.stride[2], top = -INFINITY, sum = 0.0f;
    std::fill_n(to, D, 0.0f);
    for (int64_t j = begin; j < end; ++j) {  // online softmax: sums are rescaled when the maximum grows
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
    if (sum > 0)
      for (int64_t d = 0; d < D; ++d) to[d] /= sum;
  }
}

}  // namespace cpu
}  // namespace scfa

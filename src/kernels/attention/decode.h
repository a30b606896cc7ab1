// Attention for generation: one query at a time over a cache of keys and values.
#pragma once
#include "core/arena.h"
#include "core/context.h"

namespace scfa {

// The cache of one sequence and one layer: H heads, S positions. Rows behind the last one appended are undefined.
struct KeyValueCache {
  Tensor keys, values;  // (H, S, D)
  Tensor segments;      // (H, S) u16: the segment of each key, or kNoSegment
};

KeyValueCache plan_cache(Arena& arena, DType dtype, int64_t H, int64_t S, int64_t D);

// Writes k, v and their segment to row `position` of the cache.
//   k, v  in (1, 1, H, D), D contiguous, other strides free, dtype of the cache      k_segment  in (1, H, 1) u16
void cache_append(Context& ctx, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  ConstTensor k_segment);

// out = softmax(scale * q . k) v over the keys in the query's segment among [begin, end) of the cache; zero where there
// is none.
//   out  out (1, 1, H, D)      q  in (1, 1, H, D), D contiguous, other strides free      q_segment  in (1, H, 1) u16
// f32 on the CPU; bf16 on the GPU, D a multiple of 8 up to 128, rows aligned to 16 bytes. Deterministic.
void attention_decode(Context& ctx, Tensor out, ConstTensor q, const KeyValueCache& cache, ConstTensor q_segment,
                      int64_t begin, int64_t end, float scale);

namespace cpu {
decltype(scfa::cache_append) cache_append;
decltype(scfa::attention_decode) attention_decode;
}  // namespace cpu
namespace gpu {
decltype(scfa::cache_append) cache_append;
decltype(scfa::attention_decode) attention_decode;
}  // namespace gpu
}  // namespace scfa

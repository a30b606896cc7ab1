// Attention for generation: one query at a time over a cache of keys and values.
#pragma once
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa {

// Key/value cache of one sequence and one layer: H query heads, H_kv key/value heads, S positions; f32 on the CPU, bf16
// on the GPU. Rows after the last one appended are undefined.
struct KeyValueCache {
  Tensor keys, values;  // (H_kv, S, D)
  Tensor segments;      // (R, H, S) u16: in each relation the segment of each key for a query head, or kNoSegment
};

// kv_heads: H_kv, a divisor of H; 0: H.
KeyValueCache plan_cache(Arena& arena, DType dtype, int64_t H, int64_t S, int64_t D, int64_t relations = 1,
                         int64_t kv_heads = 0);

// Writes k, v and their segments to row `position` of the cache. Throws Error unless 0 <= position < S.
//   k, v  in (1, 1, H_kv, D), D contiguous, other strides free, dtype of the cache
//   relations  R of the cache, up to kMaxRelations; only k_segment, (1, H, 1) u16, is read
void cache_append(Context& ctx, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  std::span<const Segments> relations);

// The cache positions [begin, end) whose keys the query may see, for `heads` consecutive query heads.
struct KeyRange {
  int64_t begin, end;
  int64_t heads = 0;  // number of consecutive heads; 0: all that remain
};

// Those of all heads, in order.
using HeadRanges = std::vector<KeyRange>;

// In each relation, the query sees the keys of its segment that are in the relation's range. out, lse: as in
// attention_forward over all relations; out is zero where no key is seen.
//   out  out (1, 1, H, D)      q  in (1, 1, H, D), D contiguous, other strides free
//   lse  out (1, H, 1) f32, log2; may be empty with one relation
//   relations  R of the cache; only q_segment, (1, H, 1) u16, is read      ranges  of each relation, or one for all
// f32 on the CPU; bf16 on the GPU, D a multiple of 8 up to 128, rows aligned to 16 bytes. Deterministic.
void attention_decode(Context& ctx, Tensor out, Tensor lse, ConstTensor q, const KeyValueCache& cache,
                      std::span<const Segments> relations, std::span<const HeadRanges> ranges, float scale);

// Calls work(first_head, end_head, range) for each range. Throws Error unless the ranges have H heads in all and lie
// within the cache.
template <class Work>
void for_each_range(std::span<const KeyRange> by_head, const KeyValueCache& cache, const Work& work) {
  constexpr const char* kOp = "attention_decode";
  const int64_t H = cache.segments.size(1), S = cache.keys.size(1);
  int64_t first = 0;
  for (const KeyRange& range : by_head) {
    require(range.begin >= 0 && range.begin <= range.end && range.end <= S, kOp, ": keys ", range.begin, " to ",
            range.end, " of a cache of ", S);
    const int64_t end = range.heads > 0 ? first + range.heads : H;
    require(first < end && end <= H, kOp, ": ranges of keys are given for more than ", H, " heads");
    work(first, end, range);
    first = end;
  }
  require(first == H, kOp, ": ranges of keys are given for ", first, " of ", H, " heads");
}

// One relation.
//   key_segment  in (H, S) u16      q_segment  in (1, H, 1) u16      lse  may be empty, unless accumulate
//   accumulate   out and lse hold the results of other relations and become those of all (combine.h)
using AttentionDecode = void(Context& ctx, Tensor out, Tensor lse, ConstTensor q, const KeyValueCache& cache,
                             ConstTensor key_segment, ConstTensor q_segment, std::span<const KeyRange> by_head,
                             float scale, bool accumulate);
namespace cpu {
decltype(scfa::cache_append) cache_append;
AttentionDecode attention_decode;
}  // namespace cpu
namespace gpu {
decltype(scfa::cache_append) cache_append;
AttentionDecode attention_decode;
}  // namespace gpu
}  // namespace scfa

// Choosing the segments of queries and keys.
#pragma once
#include <span>

#include "core/context.h"
#include "core/rng.h"
#include "kernels/attention/patterns/pattern.h"
#include "kernels/attention/segments.h"

namespace scfa {

// What a pattern may look at. Row t is at position first_position + t. Drops are drawn for (seed, step, layer, head,
// sample, position), so that they do not depend on the batch, nor on the other entries of a mixture.
struct PatternInput {
  // Before rotation by positions, D contiguous. k empty: keys are the queries. Several consecutive query heads may read
  // one head of k; its rows then get a segment for each of these heads.
  ConstTensor q;            // (B, T, H, D)
  ConstTensor k;            // (B, T, H_kv, D)
  ConstTensor projections;  // (rounds, heads, buckets/2, D) from draw_projections, where needs_projections
  ConstTensor samples;      // (B) i32: the number of each sequence in its step
  uint64_t seed;
  RandomStep step;
  uint32_t layer;
  int64_t first_position = 0;
  // in/out (B, heads, elements) f32: what a pattern with state (PatternDescriptor::state_elements) keeps of earlier
  // positions of the same sequences; else empty. If first_position is 0 its contents on entry do not matter.
  Tensor state = {};
  // (1 or 2, rounds, heads, buckets) f32: of queries, and of keys that are not the queries (bucket_bias.h). Empty:
  // none, as if they were 0.
  ConstTensor bucket_bias = {};
  Tensor scratch = {};                // f32 (assign_scratch), where that is not 0; undefined afterwards
  int64_t first_head = 0, heads = 0;  // the heads of q, k and the segments that the pattern is for; 0: all that follow
};

// Chooses the segment of each query and each key in the pattern's heads, in each relation. Where input.k is empty, the
// hash gives a key its query's bucket. In relations beyond those of the pattern its heads have no segments.
//   relations  at least relation_count(pattern); only q_segment and k_segment, (B, H, T) u16, are written
// f32 rows on the CPU, bf16 on the GPU, where the hash needs D to be a multiple of 8 up to 128 and rows aligned to 16
// bytes. Deterministic.
void assign_segments(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                     const PatternInput& input);

// normalise_keys(ctx, keys, inverse_norm, input.q) and then assign_segments, for all heads; input.k must be empty.
// The results have the same bits, except with a hash of one round and one probe on the GPU: there one kernel does both
// and adds up squares in another order, so that norms may differ in the last bits of f32, and keys with them. Segments
// have the same bits in any case. Profilers show it as assign_segments. Deterministic.
//   keys  out (B, T, H, D) contiguous, dtype of q      inverse_norm  out (B, T, H) f32
void assign_segments_and_normalise_keys(Context& ctx, std::span<const Segments> relations, Tensor keys,
                                        Tensor inverse_norm, const AttentionPattern& pattern,
                                        const PatternInput& input);

// In f32 elements, for B sequences of T rows.
int64_t assign_scratch(const Context& ctx, const AttentionPattern& pattern, int64_t B, int64_t heads, int64_t T);

// For patterns: sets all rows of some heads of `segment`, (B, H, T) u16, to id.
//   id  0 or kNoSegment
void fill_heads(Context& ctx, Tensor segment, int64_t first_head, int64_t heads, uint16_t id);

}  // namespace scfa

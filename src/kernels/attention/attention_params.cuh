// The parameters of the attention kernels.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/segments.h"
#include "kernels/attention/work_items.h"

namespace scfa::gpu {

struct AttentionParams {
  HeadRows q, k, v, out, dout, dq, dk, dv;
  float* lse;         // (B, H, T), in token order
  float2* lse_delta;  // (B, H, T), sorted queries, for backward: lse in log2 units (FlashAttention-3: LSE_log2)
                      // and delta = rowsum(out * dout) (dPsum), side by side
  const int *q_begin, *k_begin, *q_index, *k_index, *end_key, *begin_query;  // as in Segments
  const int *begin_key, *end_query;                                          // likewise; null without ranges
  const void* work_items;   // the kernel's work list, of QueryTile, KeyTile or SingleBlockSegment
  const int* num_items;     // how many it has
  int* tile_counter;        // work items taken so far; with sm_80, parts of items
  const int* untied_heads;  // WorkCounts::untied_heads
  // Sums of dq in f32, per m_block (kQueryBlock queries). dq_ring: a ring of ring_blocks m_blocks, shared by all thread
  // blocks. dq_accum: dq_accum_blocks m_blocks private to each thread block, for segments that it takes whole.
  float *dq_accum, *dq_ring;
  unsigned* dq_semaphores;  // of dq_ring: see sm90/dq_semaphore.cuh
  int ring_blocks, dq_accum_blocks;
  // (B, T, H) where keys are normalised queries, otherwise null. If *untied_heads is 0, the sm_90 backward adds the
  // gradient through the keys to dq.
  const float* inverse_norm;
  int H, T, S, D;
  float scale;       // of scores
  float scale_log2;  // the same for exponentials of base two: scale * log2(e)
  // Forward: combines with the out and lse of earlier relations (combine.h). Backward: adds to the dq, dk and dv of
  // earlier relations; inverse_norm is null.
  bool accumulate;
};

// Calls launch(ranges, accumulate), both std::bool_constant: whether the segments have ranges, and p.accumulate.
template <class Launch>
void bool_switch(const Segments& segments, const AttentionParams& p, const Launch& launch) {
  if (segments.has_ranges())
    p.accumulate ? launch(std::true_type(), std::true_type()) : launch(std::true_type(), std::false_type());
  else
    p.accumulate ? launch(std::false_type(), std::true_type()) : launch(std::false_type(), std::false_type());
}

template <class Item>
__device__ inline const Item* work_items(const AttentionParams& p) {
  return static_cast<const Item*>(p.work_items);
}

}  // namespace scfa::gpu

// Attention forward and backward on Hopper GPUs (sm_90a).
#pragma once
#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct AttentionParams;

namespace sm90 {

// D is a multiple of 8 up to 128. forward uses the counter at p.tile_counter, backward that one and the next; both must
// be zero. Rows in no segment are not written. backward reads p.lse_delta. Where p.inverse_norm is given and no head
// is untied, it adds the gradient through the keys to dq and does not write dk.
void forward(Context& ctx, const AttentionParams& p, const Segments& segments);
void backward(Context& ctx, const AttentionParams& p, const Segments& segments);

// The two kernels of backward: by key tiles, where several blocks share a segment (only_multi_block: only tiles of
// multi-block segments), and by single-block segments, each taken whole by one block.
void backward_key_tiles(Stream stream, const AttentionParams& p, const Segments& segments, bool only_multi_block);
void backward_single_block_segments(Stream stream, const AttentionParams& p, const Segments& segments);

// The most key tiles that a segment may have: dq_semaphore counts them.
inline constexpr int64_t kMaxKeyTiles = 65535;

// What backward needs of the scratch: p.dq_semaphores, p.dq_ring and p.dq_accum, in this order. Sizes in f32 elements.
struct DqAccum {
  int64_t ring_blocks;   // blocks of queries in dq_ring
  int64_t accum_blocks;  // blocks of queries in a thread block's part of dq_accum; 0: no segment is taken whole
  int64_t semaphore_elements, ring_elements, accum_elements;
  int64_t elements() const { return semaphore_elements + ring_elements + accum_elements; }
};
DqAccum plan_dq_accum(const Segments& segments, int64_t D);

}  // namespace sm90
}  // namespace scfa::gpu

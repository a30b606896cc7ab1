// Which of the sm_90 kernels backward takes, and the memory that they share.
#include "kernels/attention/sm90/attention.h"

#include <algorithm>

#include "core/gpu.h"
#include "kernels/attention/attention_params.cuh"

namespace scfa::gpu::sm90 {

DqAccum plan_dq_accum(const Segments& s, int64_t D) {
  const int64_t heads = s.q_segment.size(0) * s.q_segment.size(1), T = s.q_segment.size(2);
  const int64_t sms = properties().multiprocessors, blocks_per_head = T / kQueryBlock + 1, columns = D <= 64 ? 64 : 128;
  // The ring must hold the queries of one segment, and about twice the rows in the tiles of all thread blocks, which
  // are up to 3 x 64 per SM.
  const int64_t ring = std::min(blocks_per_head + 6 * sms, heads * blocks_per_head);
  // Thread blocks take whole segments only if there are enough segments to keep all SMs busy.
  const bool whole = heads * s.count() >= 2 * sms;
  const int64_t accum = whole ? std::min(blocks_per_head, s.work.single_block_max_rows / kQueryBlock) : 0;
  return {ring, accum, 8 * ring, ring * kQueryBlock * columns, sms * accum * kQueryBlock * columns};
}

void backward(Context& ctx, const AttentionParams& p, const Segments& s) {
  fill(p.dq_semaphores, 0, static_cast<size_t>(p.ring_blocks) * 8 * sizeof(unsigned), ctx.stream());
  if (p.dq_accum_blocks == 0) return backward_key_tiles(ctx.stream(), p, s, false);
  // Multi-block segments come first; single-block ones run beside them and fill the SMs that they leave free.
  backward_key_tiles(ctx.fork_side(), p, s, true);
  AttentionParams next = p;
  ++next.tile_counter;
  backward_single_block_segments(ctx.stream(), next, s);
  ctx.join_side();
}

}  // namespace scfa::gpu::sm90

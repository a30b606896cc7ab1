// Whether the sm_90 kernels run here, and which of them backward takes.
#include "kernels/attention/sm90/attention.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/gpu.h"
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/sm90/wgmma.cuh"

namespace scfa::gpu::sm90 {

namespace {

// A product of ones by one warpgroup: its result shows whether this build's code for sm_90a runs on this GPU.
__global__ void __launch_bounds__(kWarpgroupSize) probe_kernel(float* result) {
#ifdef SCFA_SM90A
  __shared__ alignas(1024) __nv_bfloat16 ones[64 * 64];
  for (int i = threadIdx.x; i < 64 * 64; i += kWarpgroupSize) ones[i] = __float2bfloat16_rn(1.0f);
  fence_proxy_async();
  __syncthreads();
  float d[32];
  warpgroup_fence_operand(d);
  warpgroup_arrive();
  gemm_ss<64, 64, 64, 64>(d, shared_address(ones), 0, shared_address(ones));
  warpgroup_commit();
  warpgroup_wait<0>();
  warpgroup_fence_operand(d);
  if (threadIdx.x == 0) *result = d[0];
#endif
}

}  // namespace

const Probe& probe() {
  static const Probe found = []() -> Probe {
    if (properties().compute != 90) return {false, properties().name + " is not a Hopper GPU"};
    Buffer result(sizeof(float), Device::kGpu);
    float value = 0;
    cudaMemset(result.data(), 0, sizeof(float));
    probe_kernel<<<1, kWarpgroupSize>>>(static_cast<float*>(result.data()));
    const cudaError_t status = cudaMemcpy(&value, result.data(), sizeof(float), cudaMemcpyDeviceToHost);
    cudaGetLastError();
    if (status != cudaSuccess) return {false, concat("a trial failed: ", cudaGetErrorString(status))};
    if (value != 64.0f) return {false, "this build has no code for sm_90a"};
    return {true, properties().name + " runs code for sm_90a"};
  }();
  return found;
}

DqSums plan_dq_sums(const Segments& s, int64_t D) {
  const int64_t heads = s.q_segment.size(0) * s.q_segment.size(1), T = s.q_segment.size(2);
  const int64_t sms = properties().multiprocessors, blocks_per_head = T / kQueryBlock + 1, columns = D <= 64 ? 64 : 128;
  // From when a segment's last key tile is begun until its sums are complete, the segment goes by, and about twice as
  // many rows as there are in the tiles of all thread blocks: 2 x 3 x 64 rows per SM.
  const int64_t ring = std::min(blocks_per_head + 6 * sms, heads * blocks_per_head);
  // A thread block takes a whole segment, so there should be enough of them to go round.
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

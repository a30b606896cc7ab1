// How blocks of the Hopper kernels share sums of dq.
#pragma once
#include "kernels/attention/hopper_block.cuh"

namespace scfa::gpu::sm90 {

// Where several blocks take the key tiles of a segment, dq of a block of kQueryBlock queries is summed up in dq_ring,
// which all share; each warp of a warpgroup has 16 of the queries. Key tiles add in a fixed order, from the last tile
// that the queries see to the first, so that sums are the same in every run. The last tile stores instead of adding.
// The first tile takes the sum and makes dq of it. Blocks begin tiles in this order, and a tile begins with earlier
// queries than the tile begun before it, so that blocks hardly ever wait. p.dq_semaphores has a word [block of the
// ring][warp] that says who added last: how often the ring has gone round, times kUse, plus 1 + the tile that added.
// Then, where there is an inverse norm, as many dq_dk_merge semaphores: how often the ring has gone round, times
// kMergeStates, plus 0 before dq or the gradient through the keys has come, 1 while the first of the two writes, 2 when
// it has written. Either rounds what it has to bf16, and the second adds to the first: the sum is the same whoever
// comes first.
constexpr unsigned kUse = 4096, kMergeStates = 4;
[[maybe_unused]] __device__ inline unsigned load_relaxed(const unsigned* at) {
  unsigned x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}
[[maybe_unused]] __device__ inline void store_relaxed(unsigned* at, unsigned x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
[[maybe_unused]] __device__ inline void store_release(unsigned* at, unsigned x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
struct RingBlock {
  int place, use;
  // first, use_: of the segment's first block.
  __device__ RingBlock(const AttentionParams& p, int first, int use_, int block) : place(first + block), use(use_) {
    if (place >= p.ring_blocks) place -= p.ring_blocks, ++use;
  }
  // Signals that a tile has added, for one warp. Tile 0 is the last to add. Where the norm is fused, it does not
  // signal: the gradient through the keys may still be to come, and release_merge() signals after it.
  __device__ void signal(const AttentionParams& p, int tile, int warp, bool fuses_norm) const {
    if (tile > 0 || !fuses_norm)
      store_release(dq_semaphore(p, warp), tile > 0 ? use * kUse + tile + 1 : (use + 1) * kUse);
  }
  // The same for all warps, by one thread.
  __device__ void signal(const AttentionParams& p, int tile, bool fuses_norm) const {
    if (tile == 0 && fuses_norm) return;
    const unsigned x = tile > 0 ? use * kUse + tile + 1 : (use + 1) * kUse;
    asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(dq_semaphore(p, 0)),
                 "r"(x)
                 : "memory");
  }
  __device__ unsigned* dq_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * place + warp;
  }
  __device__ unsigned* dq_dk_merge_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * (p.ring_blocks + place) + warp;
  }
  __device__ float4* sums(const AttentionParams& p, int columns) const {  // laid out as dq_accum_of() has it
    return reinterpret_cast<float4*>(p.dq_ring + int64_t{place} * kQueryBlock * columns) + threadIdx.x % kGroup;
  }
};

}  // namespace scfa::gpu::sm90

// How blocks of the Hopper kernels share sums of dq.
#pragma once
#include "kernels/attention/hopper_block.cuh"

namespace scfa::gpu::sm90 {

// Where blocks take tiles of keys, dq of a block of queries is summed up in a ring that all share, for each warp of a
// warpgroup 16 queries. Tiles add in a fixed order, the last that the queries see first, so that sums are the same in
// every run: tiles are begun in this order, and one begins with queries before those of the one begun before, so that
// hardly anybody waits. The first stores, the last of the order, which is the segment's first tile, takes what is there
// and makes dq of it.
// Words of p.turns, [block of the ring][warp]: how often the ring has gone round, times kUse, plus 1 + the tile that
// added last. Then, where there is an inverse norm, as many words for the meeting of dq and what goes through the keys:
// how often the ring has gone round, times kMeeting, plus 0 before either has come, 1 while the first one writes, 2
// when it has. Each rounds what it has to bf16, and the second adds the two: the sum is the same whoever comes first.
constexpr unsigned kUse = 4096, kMeeting = 4;
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
  __device__ RingBlock(const Problem& p, int first, int use_, int block) : place(first + block), use(use_) {
    if (place >= p.ring_blocks) place -= p.ring_blocks, ++use;
  }
  // Tells others that a tile has added. After the last one of the order, what goes through the keys is still to come
  // where the norm is fused; then leave() tells.
  __device__ void tell(const Problem& p, int tile, int warp, bool fuses_norm) const {
    if (tile > 0 || !fuses_norm) store_release(turn(p, warp), tile > 0 ? use * kUse + tile + 1 : (use + 1) * kUse);
  }
  // For all warps, by one thread.
  __device__ void tell(const Problem& p, int tile, bool fuses_norm) const {
    if (tile == 0 && fuses_norm) return;
    const unsigned x = tile > 0 ? use * kUse + tile + 1 : (use + 1) * kUse;
    asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(turn(p, 0)), "r"(x)
                 : "memory");
  }
  __device__ unsigned* turn(const Problem& p, int warp) const { return p.turns + 4 * place + warp; }
  __device__ unsigned* meeting(const Problem& p, int warp) const {
    return p.turns + 4 * (p.ring_blocks + place) + warp;
  }
  __device__ float4* sums(const Problem& p, int columns) const {  // as parts_of
    return reinterpret_cast<float4*>(p.dq_ring + int64_t{place} * kQueryBlock * columns) + threadIdx.x % kGroup;
  }
};

}  // namespace scfa::gpu::sm90

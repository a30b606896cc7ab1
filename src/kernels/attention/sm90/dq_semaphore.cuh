// How thread blocks share sums of dq: the order in which they add, and who has added.
//
// Where several blocks take the key tiles of a segment, dq of a block of kQueryBlock queries (m_block) is summed up in
// dq_ring, in f32. Key tiles (n_block) add in a fixed order, from the last tile that the queries see to the first, so
// that sums are the same bits in every run. The last tile stores instead of adding, so nothing need be zero before. The
// first tile completes the sum: it adds its own part in registers, scales, rounds and writes dq. Without ranges it is
// tile 0. begin_query and end_query of the KeyTiles say which tiles add to a block of queries; at least one does.
// Each of the four warps of the dq warpgroup has 16 of the queries and a semaphore word of its own.
//
// Positions in the ring are given out in the order of the work list: item.dq_block modulo ring_blocks is the position,
// and the quotient is the round. Every position is used in every round.
//
// dq_semaphore, one word per position and warp, in round r:
//
//   value                     state                                         who waits for exactly this value
//   r * kRound                free: round r - 1 is done                     the last key tile that the queries see
//   r * kRound + n_block + 1  key tile n_block has added                    n_block - 1
//   (r + 1) * kRound          the first has added, dq is written, merged    round r + 1
//
// dq_dk_merge_semaphore, one word per position and warp, used where the gradient through normalised keys is added to
// dq. Two sides write to the same rows of dq: the dq side, the dq warpgroup of the tile that completes the sum, and the
// key side, the epilogue of the key tile that has these rows as keys. Both round to bf16 and the second adds to what
// the first has written, so the result does not depend on who comes first. In round r:
//
//   value                     state                                         who waits for it
//   r * kMergeStates          neither side has come                         nobody: whoever swaps it to + 1 is first
//   r * kMergeStates + 1      the first side writes                         nobody
//   r * kMergeStates + 2      the first side has written                    the second side
//   (r + 1) * kMergeStates    both have written                             the first side of round r + 1
//
// With merging, the tile that completes the sum does not signal: the second side sets both semaphores to the next
// round.
//
// Why this cannot deadlock. Blocks take tiles in the order of the list, which has the last key tile of a segment first,
// and each processes its tiles in the same order. The producer never waits for a semaphore. A segment has at
// most ring_blocks blocks of queries (plan_dq_accum), so it never waits for itself.
//   - dq_semaphore: the wait is for a tile that stands before in the list: the next key tile of the same segment, or,
//     for a position that is not free, tiles of an earlier segment. Whoever took these is running.
//   - dq_dk_merge_semaphore, state + 1: the holder may be a tile later in the list, but it can always finish.
//     The key side, and the dq side with D = 64, only write. With D = 128 the dq side (tile c, which completes the
//     sum) must still compute columns 64 to 127, for which it needs the other three warps of its warpgroup.
//     These may wait for their own merges, whose holders are key sides, which only write; or for tile c + 1 to signal
//     their words. Tile c + 1 has signalled the holder's word: by the producer, then all four at once; or by a warp.
//     Between that warp's last wait for a semaphore and its signal it has completed such a GEMM of columns 64 to
//     127, so the other three are past that wait too, and only mbarriers that it has passed are between them and their
//     signals. (Where tile c is also the last tile that the queries see, the key side is the same warp, later: nobody
//     waits for the holder.)
// So the first unfinished tile of the list can always make progress.
//
// Why the loads that wait are relaxed where the PTX memory model asks for an acquire. On this hardware three things
// suffice: what comes after depends on the value by a branch (of a merge, lane 0 alone swaps, and the other lanes
// branch on its value through a shuffle), and loads, stores and reductions are not performed before a branch is
// decided; they are volatile and not moved above the loop that they depend on; and all of them, and the other tile's
// before its release, are performed in the L2 cache, so that L1 has no copy that an acquire would have to drop.
// Acquiring costs 3 % of dense backward at 16,384 tokens.
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/sm90/attention.h"
#include "kernels/sm90/bounded_spin.cuh"
#include "kernels/sm90/ptx.cuh"

namespace scfa::gpu::sm90 {

constexpr unsigned kRound = kMaxKeyTiles + 1, kMergeStates = 4;

// A block of queries in dq_ring.
struct RingBlock {
  int position, round;
  // first_position, first_round: of the segment's first block of queries; m_block: which one of the segment.
  __device__ RingBlock(const AttentionParams& p, int first_position, int first_round, int m_block)
      : position(first_position + m_block), round(first_round) {
    if (position >= p.ring_blocks) position -= p.ring_blocks, ++round;
  }

  // The accumulators; layout: top of dq_accumulation.cuh. columns: the padded head dim.
  __device__ float4* accum(const AttentionParams& p, int columns) const {
    return reinterpret_cast<float4*>(p.dq_ring + int64_t{position} * kQueryBlock * columns) +
           threadIdx.x % kWarpgroupSize;
  }
  __device__ unsigned* dq_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * position + warp;
  }
  __device__ unsigned* dq_dk_merge_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * (p.ring_blocks + position) + warp;
  }

  // The exact value that a key tile waits for. adds_first: no tile of these queries has a higher number.
  __device__ unsigned awaited_value(int n_block, bool adds_first) const {
    return round * kRound + (adds_first ? 0 : n_block + 2);
  }
  // The value that says that a key tile has added. completes: no tile of these queries has a lower number.
  __device__ unsigned signal_value(int n_block, bool completes) const {
    return completes ? (round + 1) * kRound : round * kRound + n_block + 1;
  }
  // Signals that a key tile has added; for one warp, by one thread of it. merges: the tile that completes the sum
  // leaves it to release_merge.
  __device__ void signal(const AttentionParams& p, int n_block, bool completes, int warp, bool merges) const {
    if (!completes || !merges) store_release(dq_semaphore(p, warp), signal_value(n_block, completes));
  }
  // The same for all four warps, by one thread.
  __device__ void signal(const AttentionParams& p, int n_block, bool completes, bool merges) const {
    if (!completes || !merges) store_release_x4(dq_semaphore(p, 0), signal_value(n_block, completes));
  }

  // A merge, by all lanes of a warp on either side. try_acquire_merge() tries to be the first side.
  // wait_for_merge_turn() takes what that returned and says whether this is the first side; on the second side it
  // returns when the first has written. release_merge() is called when the caller has written.
  __device__ unsigned try_acquire_merge(const AttentionParams& p, int warp) const {
    const unsigned nobody = round * kMergeStates;
    unsigned observed = nobody;
    // Relaxed, for the reasons above: the second side reads what the first has written by load_coherent.
    if (threadIdx.x % 32 == 0) observed = compare_and_swap_relaxed(dq_dk_merge_semaphore(p, warp), nobody, nobody + 1);
    return observed;
  }
  __device__ bool wait_for_merge_turn(const AttentionParams& p, int warp, unsigned observed) const {
    const unsigned nobody = round * kMergeStates;
    // The second side of round r - 1 may not have released the semaphore yet.
    for (const Spin spin(SpinSite::kMergeSemaphore, static_cast<uint32_t>(position));
         observed != nobody && observed != nobody + 2; spin.again())
      observed = try_acquire_merge(p, warp);
    __syncwarp();
    return warp_uniform(static_cast<int>(observed - nobody)) == 0;
  }
  __device__ void release_merge(const AttentionParams& p, int warp, bool is_first_side) const {
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    if (is_first_side) {
      store_release(dq_dk_merge_semaphore(p, warp), round * kMergeStates + 2);
    } else {  // Nobody reads what it wrote, and every lane has used the sums before __syncwarp.
      store_relaxed(dq_dk_merge_semaphore(p, warp), (round + 1) * kMergeStates);
      store_relaxed(dq_semaphore(p, warp), (round + 1) * kRound);
    }
  }
};

}  // namespace scfa::gpu::sm90

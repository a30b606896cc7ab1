// How thread blocks share sums of dq: the order in which they add, and who has added.
//
// Where several blocks take the key tiles of a segment, dq of a block of kQueryBlock queries is summed up in dq_ring,
// in f32. Key tiles add in a fixed order, from the last tile that the queries see to the first, so that sums are the
// same bits in every run. The last tile stores instead of adding, so nothing need be zero before. The first tile (index
// 0) takes the sum and makes dq of it. Each of the four warps of a warpgroup has 16 of the queries and goes by itself.
//
// Places in the ring are given out in the order of the work list: item.dq_block, taken modulo ring_blocks, is the
// position, and the quotient is the round.
//
// dq_semaphore (one word per position and warp) counts up. In round r:
//
//   value                     state                                         who goes on
//   r * kRound                free: tile 0 of round r - 1 is done           the last key tile that the queries see
//   r * kRound + tile + 1     key tile `tile` has added                     tile - 1, which waits for this value
//   (r + 1) * kRound          tile 0 has added and dq is written            round r + 1
//
// dq_dk_merge_semaphore (one word per position and warp, used where the gradient through normalised keys is added to
// dq): two sides write to the same rows of dq, tile 0 with the sum, and the key tile that has these rows as keys with
// the gradient through the keys. Both round to bf16 and the second adds to what the first has written, so that the
// result does not depend on who comes first. In round r:
//
//   value                     state
//   r * kMergeStates          neither side has come
//   r * kMergeStates + 1      the first side writes
//   r * kMergeStates + 2      the first side has written; the second adds
//   (r + 1) * kMergeStates    both are done
//
// Then tile 0 does not signal: whoever comes second sets both semaphores to the next round.
//
// Why nobody waits for ever. Blocks take tiles in the order of the list, which has the last key tile of a segment
// first, and a block works off its tiles in the order in which it took them. A wait for dq_semaphore is for a tile that
// stands before in the list: the next key tile of the same segment, or tile 0 of an earlier segment that used the same
// position. Whoever took that tile is running, and so the block with the smallest unfinished number can always go on. A
// wait for dq_dk_merge_semaphore may be for a tile with a larger number, but only for one that has acquired it and is
// writing. The side of the keys then waits for nothing. The side of dq waits for nothing either, except with D = 128:
// there it has its second 64 columns to multiply in between, with the other warps of its warpgroup, which wait for
// their own words of dq_semaphore, as above, or for a side of the keys. A semaphore that is still in the last round is
// waited for as above.
//
// Why the loads that wait are relaxed where the PTX memory model asks for an acquire. On this hardware three things
// suffice: what comes after depends on the value by a branch, and loads and reductions are not begun before a branch is
// decided; they are volatile, so that the compiler keeps their order; and all of them, and the other tile's before its
// release, are performed in the L2 cache, so that L1 has no copy that an acquire would have to drop. Acquiring costs 3
// % of dense backward at 16,384 tokens.
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/sm90/bounded_spin.cuh"
#include "kernels/attention/sm90/ptx.cuh"

namespace scfa::gpu::sm90 {

constexpr unsigned kRound = 1 << 16, kMergeStates = 4;  // a segment has fewer than kRound - 1 key tiles

// A block of queries in dq_ring.
struct RingBlock {
  int position, round;
  // first_position, first_round: of the segment's first block of queries; block: which one of the segment.
  __device__ RingBlock(const AttentionParams& p, int first_position, int first_round, int block)
      : position(first_position + block), round(first_round) {
    if (position >= p.ring_blocks) position -= p.ring_blocks, ++round;
  }

  // The sums of 64 columns, laid out as DqRegisters has it. columns: the padded head dim.
  __device__ float4* sums(const AttentionParams& p, int columns) const {
    return reinterpret_cast<float4*>(p.dq_ring + int64_t{position} * kQueryBlock * columns) +
           threadIdx.x % kWarpgroupSize;
  }
  __device__ unsigned* dq_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * position + warp;
  }
  __device__ unsigned* dq_dk_merge_semaphore(const AttentionParams& p, int warp) const {
    return p.dq_semaphores + 4 * (p.ring_blocks + position) + warp;
  }

  // The value from which on a key tile may add.
  __device__ unsigned awaited_value(int tile, bool is_last_tile) const {
    return round * kRound + (is_last_tile ? 0 : tile + 2);
  }
  // The value that says that a key tile has added.
  __device__ unsigned signal_value(int tile) const {
    return tile > 0 ? round * kRound + tile + 1 : (round + 1) * kRound;
  }
  // Signals that a key tile has added; for one warp, by one thread of it. merges: tile 0 leaves it to release_merge.
  __device__ void signal(const AttentionParams& p, int tile, int warp, bool merges) const {
    if (tile > 0 || !merges) store_release(dq_semaphore(p, warp), signal_value(tile));
  }
  // The same for all four warps, by one thread.
  __device__ void signal(const AttentionParams& p, int tile, bool merges) const {
    if (tile > 0 || !merges) store_release_x4(dq_semaphore(p, 0), signal_value(tile));
  }

  // A merge, by all lanes of a warp on either side. try_acquire_merge() tries to be the first side. is_first() takes
  // what that returned and says whether it succeeded; on the second side it returns when the first has written.
  // release_merge() is called when the caller has written.
  __device__ unsigned try_acquire_merge(const AttentionParams& p, int warp) const {
    const unsigned nobody = round * kMergeStates;
    unsigned before = nobody;
    // Relaxed: the second side reads what the first has written by load_coherent, in the L2 cache.
    if (threadIdx.x % 32 == 0) before = compare_and_swap_relaxed(dq_dk_merge_semaphore(p, warp), nobody, nobody + 1);
    return before;
  }
  __device__ bool is_first(const AttentionParams& p, int warp, unsigned before) const {
    const unsigned nobody = round * kMergeStates;
    // The second side of the ring's last round may not have released the semaphore yet.
    for (const Spin spin(SpinSite::kMergeSemaphore, static_cast<uint32_t>(position));
         before != nobody && before != nobody + 2; spin.again())
      before = try_acquire_merge(p, warp);
    __syncwarp();
    return warp_uniform(static_cast<int>(before - nobody)) == 0;
  }
  __device__ void release_merge(const AttentionParams& p, int warp, bool first) const {
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    if (first) {
      store_release(dq_dk_merge_semaphore(p, warp), round * kMergeStates + 2);
    } else {  // Nobody reads what it wrote, and the sums have been read.
      store_relaxed(dq_dk_merge_semaphore(p, warp), (round + 1) * kMergeStates);
      store_relaxed(dq_semaphore(p, warp), (round + 1) * kRound);
    }
  }
};

}  // namespace scfa::gpu::sm90

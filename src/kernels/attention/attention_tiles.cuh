// What the attention kernels share: parameters, the counter that hands out tiles, gathering and scattering of rows.
#pragma once
#include "kernels/attention/mma_sm80.cuh"

namespace scfa::gpu {

constexpr int kTile = 128;      // rows of a tile of the work lists
constexpr int kEntryWords = 3;  // of 16 bytes, per entry of the work lists

// Rows of all heads of a (B, T, H, D) tensor, D contiguous; strides in elements.
struct HeadRows {
  __nv_bfloat16* data;
  int64_t batch_stride, row_stride, head_stride;
};

struct AttentionParams {
  HeadRows q, k, v, out, dout, dq, dk, dv;
  float* lse;          // (B, H, T), in token order
  float2* statistics;  // (B, H, T) for backward, as the sorted lists of queries: lse and delta, side by side
  const int *q_begin, *k_begin, *q_index, *k_index, *num_visible_keys, *first_query;
  const int4* tiles;  // entries of kEntryWords: see segments.h
  const int* tile_count;
  int* tile_counter;  // the next tile to take
  // Sums of dq, in blocks of kQueryBlock queries. dq_accum: where thread blocks take whole segments, dq_accum_blocks of
  // each thread block. dq_ring: where they share segments, a ring of ring_blocks.
  float *dq_accum, *dq_ring;
  unsigned* dq_semaphores;  // of each block of dq_ring, which tile added last: see hopper_ring.cuh
  int ring_blocks, dq_accum_blocks;
  // (B, T, H) where keys are normalised queries, otherwise null. If all heads are tied (kUntiedHeads), the gradient
  // through the keys is added to dq.
  const float* inverse_norm;
  int H, T, S, D;
  float scale;       // of scores
  float scale_log2;  // the same for exponentials of base two
};

// A tile of rows of one segment, with where the segment's queries and keys lie in the sorted lists.
struct Piece {
  int head, first, rows, queries, keys;
  int64_t b, h, q0, k0;
};

__device__ inline Piece piece_of(const AttentionParams& p, int4 tile) {
  const int64_t entry = static_cast<int64_t>(tile.x) * (p.S + 1) + tile.y, list = static_cast<int64_t>(tile.x) * p.T;
  const int q0 = p.q_begin[entry], k0 = p.k_begin[entry];
  return {tile.x,       tile.z,    tile.w,   p.q_begin[entry + 1] - q0, p.k_begin[entry + 1] - k0, tile.x / p.H,
          tile.x % p.H, list + q0, list + k0};
}

__device__ inline __nv_bfloat16* head_of(const HeadRows& rows, const Piece& piece) {
  return rows.data + piece.b * rows.batch_stride + piece.h * rows.head_stride;
}

// The block's tiles. Blocks take them in the order of the list, so that the most expensive ones start first; what a
// tile computes does not depend on who takes it. The tile stays in shared memory: an epilogue that looks at it again
// keeps no registers for it through the main loop. kRows: rows that a block takes at a time, a tile of the list or an
// even part of one.
template <int kRows>
class TileQueue {
 public:
  // The next one; false when none is left. which: the list's place in tile_count.
  __device__ bool next(const AttentionParams& p, int which) {
    __syncthreads();  // the last tile's shared memory is free
    if (threadIdx.x == 0) {
      const int taken = atomicAdd(p.tile_counter, 1);
      constexpr int kParts = kTile / kRows;
      int4 next = make_int4(-1, 0, 0, 0);
      if (taken / kParts < p.tile_count[which]) {
        next = p.tiles[taken / kParts * kEntryWords];
        const int skip = taken % kParts * kRows;
        next.z += skip;
        next.w = min(next.w - skip, kRows);  // nothing, where the last part of a tile is empty
      }
      tile() = next;
    }
    __syncthreads();
    return tile().x >= 0;
  }
  __device__ Piece piece(const AttentionParams& p) { return piece_of(p, tile()); }

 private:
  __device__ static int4& tile() {
    __shared__ int4 current;
    return current;
  }
};

// Gathers tiles of kRows rows named by an index list. The list is read a tile ahead, so that copies need not wait for
// it.
template <int kRows, int kD, int kThreads>
class Gatherer {
 public:
  static constexpr int kSteps = kRows * Tile<kRows, kD>::kChunks / kThreads;
  static_assert(kSteps * kThreads == kRows * Tile<kRows, kD>::kChunks);

  // Which tokens the rows [begin, begin + kRows) of a list of `count` are; rows past the end become zeros.
  __device__ void look_up(const int* index, int begin, int count) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = begin + row_of(i);
      token_[i] = row < count ? index[row] : -1;
    }
  }
  // Starts copying those rows of one head.
  __device__ void start(uint32_t tile, const __nv_bfloat16* head, int64_t stride, int D) const {
    const int chunk = threadIdx.x % Tile<kRows, kD>::kChunks;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool valid = token_[i] >= 0 && chunk * 8 < D;
      copy_async<16>(Tile<kRows, kD>::at(tile, row_of(i), chunk), head + (valid ? token_[i] * stride + chunk * 8 : 0),
                     valid);
    }
  }

 private:
  __device__ static int row_of(int step) {
    return (threadIdx.x + step * kThreads) / Tile<kRows, kD>::kChunks;
  }
  int token_[kSteps];
};

// A warp's 16 kM rows of an accumulator, times factor[row], as bf16 to the tokens the index list names; through shared
// memory that no other warp looks at, so that a row leaves in pieces of 16 bytes.
template <int kM, int kD, int kRows>
__device__ inline void scatter_rows(const float (&acc)[kM][kD / 8][4], const float (&factor)[kM][2], uint32_t tile,
                                    int first, int rows, __nv_bfloat16* head, int64_t stride, const int* index, int D) {
  const int lane = threadIdx.x % 32;
  using T = Tile<kRows, kD>;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int j = 0; j < kD / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t to = T::at(tile, first + 16 * m + lane / 4 + 8 * half, j) + lane % 4 * 4;
        const uint32_t pair =
            pack_bf16(acc[m][j][2 * half] * factor[m][half], acc[m][j][2 * half + 1] * factor[m][half]);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
      }
  __syncwarp();
  constexpr int kRowsAtOnce = 32 / T::kChunks;
  const int chunk = lane % T::kChunks;
#pragma unroll
  for (int i = 0; i < 16 * kM / kRowsAtOnce; ++i) {
    const int row = first + i * kRowsAtOnce + lane / T::kChunks;
    if (row >= rows || chunk * 8 >= D) continue;
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(T::at(tile, row, chunk))
                 : "memory");
    store_global(head + index[row] * stride + chunk * 8, v);
  }
}

__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

}  // namespace scfa::gpu

// How a warp stores its 16 rows of an accumulator: over the rows in memory, added to them, or combined with them.
#pragma once
#include "kernels/attention/combine.h"
#include "kernels/fragment_math.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu {

struct Overwrite {
  static constexpr int kLoadsAhead = 0;
};

// Adds to what is there. kLoadsAhead: how many of a lane's accesses are loaded before the first one is stored.
template <int kLoadsAhead_ = 4>
struct Accumulate {
  static constexpr int kLoadsAhead = kLoadsAhead_;
  __device__ float weight(int, int) const { return 1.0f; }
};

// New value + weight of the row * value in memory.
struct Combine {
  static constexpr int kLoadsAhead = 4;
  float weights[2];  // of rows lane / 4 and lane / 4 + 8
  // Weight of row 8 * half + row, 0 <= row < 8. All lanes call it.
  __device__ float weight(int half, int row) const { return __shfl_sync(0xFFFFFFFFu, weights[half], row * 4); }
};

// Forward epilogue. The four lanes of a quad share a row; *lse is its lse over earlier relations, read only if
// `inside`. On return factor is multiplied by this relation's weight, existing_weight is the weight of the output in
// memory, and row_lse the combined lse.
__device__ inline void combine_with_existing(float& factor, float& row_lse, float& existing_weight, const float* lse,
                                             bool inside) {
  const CombineWeights weights = combine_weights(inside ? *lse : INFINITY, row_lse);
  __syncwarp();  // all lanes of the quad have read lse before one of them writes it
  factor *= weights.added, existing_weight = weights.existing, row_lse = weights.lse;
}

// A warp stores its 16 rows. Access i of a lane is 16 bytes of row i * kRowsAtOnce + lane / kChunks, if inside(row).
// at(row): the destination. piece(row): the new 16 bytes, which `existing` stores, adds or combines.
template <int kChunks, class Existing, class Inside, class At, class Piece>
__device__ inline void store_rows(const Existing& existing, const Inside& inside, const At& at, const Piece& piece) {
  constexpr int kRowsAtOnce = 32 / kChunks, kAccesses = 16 / kRowsAtOnce;
  const int lane_row = threadIdx.x % 32 / kChunks;
  if constexpr (Existing::kLoadsAhead == 0) {
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) {
      const int row = i * kRowsAtOnce + lane_row;
      if (!inside(row)) continue;
      __nv_bfloat16* to = at(row);
      store_global(to, piece(row));
    }
  } else {
    constexpr int kBatch = Existing::kLoadsAhead;
#pragma unroll
    for (int batch = 0; batch < kAccesses; batch += kBatch) {
      uint4 there[kBatch];
      float weight[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int first = (batch + i) * kRowsAtOnce, row = first + lane_row;
        there[i] = inside(row) ? load_coherent(at(row)) : make_uint4(0, 0, 0, 0);
        weight[i] = existing.weight(first / 8, row % 8);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int row = (batch + i) * kRowsAtOnce + lane_row;
        if (inside(row)) store_global(at(row), add_bf16(piece(row), there[i], weight[i]));
      }
    }
  }
}

}  // namespace scfa::gpu

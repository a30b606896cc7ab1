// Writing a tile's results from accumulators to token order.
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/existing_rows.cuh"
#include "kernels/fragment_math.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm80 {

// Writes a warp's 16 rows of an accumulator, times factor[half] (of rows lane / 4 and lane / 4 + 8), as bf16 to the
// tokens that `index` names. They go through rows [first, first + 16) of a tile in shared memory that no other warp
// uses any more, so that each row leaves in pieces of 16 bytes. rows: how many the tile has. existing: of
// existing_rows.cuh.
template <int kD, int kRows, class Existing = Overwrite>
__device__ inline void scatter(const float (&acc)[1][kD / 8][4], const float (&factor)[2], uint32_t tile, int first,
                               int rows, const HeadView& head, const int* index, int D, const Existing& existing = {}) {
  using T = Tile<kRows, kD>;
  const int lane = threadIdx.x % 32, chunk = lane % T::kChunks;
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kD / 8; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t to = T::at(tile, first + lane / 4 + 8 * half, j) + lane % 4 * 4;
      const uint32_t pair = pack_bf16(acc[0][j][2 * half] * factor[half], acc[0][j][2 * half + 1] * factor[half]);
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
    }
  __syncwarp();
  store_rows<T::kChunks>(
      existing, [&](int row) { return first + row < rows && chunk * 8 < D; },
      [&](int row) { return head.data + index[first + row] * head.row_stride + chunk * 8; },
      [&](int row) {
        uint4 v;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "r"(T::at(tile, first + row, chunk))
                     : "memory");
        return v;
      });
}

}  // namespace scfa::gpu::sm80

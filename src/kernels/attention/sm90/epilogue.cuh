// From accumulators to rows of bf16 in token order, and the backward pass of normalised keys on accumulators.
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/existing_rows.cuh"
#include "kernels/fragment_math.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm90 {

// Writes a warp's 16 rows of an accumulator, times factor, as bf16 to the tokens that token(row) names, through the
// warp's own rows [first, first + 16) of a tile that nobody reads any more. rows: how many the tile has. existing: of
// existing_rows.cuh.
template <class T, int kD, class Token, class Existing = Overwrite>
__device__ inline void scatter(const float (&acc)[kD], const float (&factor)[2], uint32_t tile, int first, int rows,
                               const HeadView& to, int D, const Token& token, const Existing& existing = {}) {
  const int lane = threadIdx.x % 32;
  const uint32_t corner = T::at(tile, first + lane % 16, lane / 16);
  __syncwarp();  // the previous scatter of the warp has read its staged rows
#pragma unroll
  for (int k = 0; k < kD / 8; ++k) {
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[i] = pack_bf16(acc[8 * k + 2 * i] * factor[i % 2], acc[8 * k + 2 * i + 1] * factor[i % 2]);
    stmatrix(T::step(corner, 0, 2 * k), packed);
  }
  __syncwarp();
  const int chunk = lane % T::kChunks;
  __nv_bfloat16* data = to.data + chunk * 8;
  store_rows<T::kChunks>(
      existing, [&](int row) { return first + row < rows && chunk * 8 < D; },
      [&](int row) { return data + token(first + row) * to.row_stride; },
      [&](int row) { return load_chunk(T::at(tile, first + row, chunk)); });
}

// Transposes 64 columns of a warp's 16 rows among the four lanes of each quad, so that a lane has pieces of 16 bytes:
// piece[half][i] is chunk 4 i + lane % 4 of row lane / 4 + 8 half, times factor, as bf16.
[[maybe_unused]] __device__ inline void accumulator_to_chunks(uint4 (&piece)[2][2], const float (&acc)[32],
                                                              float factor) {
  const bool odd = threadIdx.x % 2 != 0, upper = threadIdx.x % 4 >= 2;
  // Of two lanes `distance` apart, the first keeps a and gets the other's a as b; the second keeps b.
  const auto swap = [](uint32_t& a, uint32_t& b, bool second, int distance) {
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, second ? a : b, distance);
    (second ? a : b) = got;
  };
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        w[j] = pack_bf16(acc[16 * i + 4 * j + 2 * half] * factor, acc[16 * i + 4 * j + 2 * half + 1] * factor);
      swap(w[0], w[1], odd, 1);
      swap(w[2], w[3], odd, 1);
      swap(w[0], w[2], upper, 2);
      swap(w[1], w[3], upper, 2);
      piece[half][i] = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

// The backward pass of k = q / |q|. dk: in dk / scale, out its contribution to dq, (dk - k (k . dk)) / |q|. keys: the
// tile of the keys (T); row: the thread's first; inverse_norm: 1 / |q| of its two rows.
template <class T, int kN>
__device__ inline void l2_normalise_backward(float (&dk)[kN], uint32_t keys, int row, const float (&inverse_norm)[2],
                                             float scale) {
  const int lane = threadIdx.x % 32;
  const auto key_pair = [&](int j, int half) {
    return static_cast<uint32_t>(load_int(T::at(keys, row + 8 * half, j) + lane % 4 * 4));
  };
  float dot[2] = {};
#pragma unroll
  for (int j = 0; j < kN / 4; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t key = key_pair(j, half);
      dot[half] += low_half(key) * dk[4 * j + 2 * half] + high_half(key) * dk[4 * j + 2 * half + 1];
    }
#pragma unroll
  for (int half = 0; half < 2; ++half) dot[half] = quad_sum(dot[half]);
#pragma unroll
  for (int j = 0; j < kN / 4; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t key = key_pair(j, half);
      const float factor = scale * inverse_norm[half];
      dk[4 * j + 2 * half] = (dk[4 * j + 2 * half] - low_half(key) * dot[half]) * factor;
      dk[4 * j + 2 * half + 1] = (dk[4 * j + 2 * half + 1] - high_half(key) * dot[half]) * factor;
    }
}

}  // namespace scfa::gpu::sm90

// The online softmax of FlashAttention-2 (Dao 2023, arXiv:2307.08691) for a warp's 16 rows.
#pragma once
#include "kernels/fragment_math.cuh"

namespace scfa::gpu::sm80 {

// Of a lane's two rows: the largest score so far, and the lane's share of the sum of exponentials relative to it.
struct OnlineSoftmax {
  float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {0.0f, 0.0f};

  // Scores s become exponentials; `out` is rescaled to the new maximum.
  template <int kN, int kD>
  __device__ void update(float (&s)[1][kN / 8][4], float (&out)[1][kD / 8][4], int half, float scale_log2) {
    float highest = row_max[half];
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) highest = fmaxf(highest, fmaxf(s[0][j][2 * half], s[0][j][2 * half + 1]));
    highest = quad_max(highest);
    const float max_scaled = highest == -INFINITY ? 0.0f : highest * scale_log2;
    const float scores_scale = exp2_fast(row_max[half] * scale_log2 - max_scaled);
    row_max[half] = highest;
    row_sum[half] *= scores_scale;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[0][j][2 * half + i];
        x = exp2_fast(x * scale_log2 - max_scaled);
        row_sum[half] += x;
      }
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      out[0][j][2 * half] *= scores_scale;
      out[0][j][2 * half + 1] *= scores_scale;
    }
  }
};

}  // namespace scfa::gpu::sm80

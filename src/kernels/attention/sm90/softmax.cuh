// The softmax of the sm_90 kernels on the registers of a warpgroup's accumulator: the online softmax of forward, and
// probabilities from lse in backward. Element [4 j + i] of a thread is in row lane / 4 + 8 (i / 2) of the warp's 16 and
// in column 8 j + 2 (lane % 4) + i % 2.
#pragma once
#include <climits>

#include "kernels/fragment_math.cuh"
#include "kernels/sm90/ptx.cuh"

namespace scfa::gpu::sm90 {

// ---- forward --------------------------------------------------------------------------------------------------------
// Lazy rescaling: the maximum of a row is computed in the first step only. Exponentials of later steps are taken
// relative to it, which is exact as long as nothing overflows. It is computed again only where the sums show that a
// score is far above it.

// If a thread's sum in one step reaches this, scores are computed again. f32 overflows far above it (2^128).
[[maybe_unused]] constexpr float kSumLimit = 0x1p64f;

// With ranges a row that has seen no key has max_scaled -kUnseen: exponentials of masked scores (-inf) stay 0, and its
// first visible key overflows the sum, for which the maximum is computed again.
[[maybe_unused]] constexpr float kUnseen = 1e30f;

// A thread's two rows. max_scaled: the maximum times scale_log2, of the steps up to where it was last computed, to
// which exponents are relative. row_sum: the thread's share of the sum of exponentials.
struct OnlineSoftmax {
  float max_scaled[2], row_sum[2];
};

// Sets the scores of keys that a row does not see to -inf. end_key: address of the end_key of the thread's first row.
// begin: the step's first key.
template <int kBlockN>
__device__ inline void apply_mask(float (&s)[kBlockN / 2], uint32_t end_key, int begin) {
  const int column = begin + 2 * opaque(threadIdx.x % 4);
  const int left[2] = {load_int(end_key) - column, load_int(end_key + 8 * 4) - column};
#pragma unroll
  for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (8 * j + i % 2 >= left[i / 2]) s[4 * j + i] = -INFINITY;
}

// The same with ranges, where a row sees keys from begin_key on, whose address is given too.
template <int kBlockN>
__device__ inline void apply_range_mask(float (&s)[kBlockN / 2], uint32_t begin_key, uint32_t end_key, int begin) {
  const int column = begin + 2 * opaque(threadIdx.x % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int first = load_int(begin_key + 8 * 4 * half), first_column = column - first;
    const auto seen = static_cast<unsigned>(load_int(end_key + 8 * 4 * half) - first);
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (static_cast<unsigned>(first_column + 8 * j + i) >= seen) s[4 * j + 2 * half + i] = -INFINITY;
  }
}

// Raises max_scaled of each row to its highest score, if that is above it, and rescales row_sum. scores_scale: the
// factor by which the caller must rescale the output.
template <int kBlockN, bool kIsLocal>
__device__ inline void max_get_scale(float (&scores_scale)[2], OnlineSoftmax& state, const float (&s)[kBlockN / 2],
                                     float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};  // several, so that none waits for the last
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& most = highest[2 * (j % 2) + i];
        most = fmaxf(most, s[4 * j + 2 * half + i]);
      }
    const float most = quad_max(fmaxf(fmaxf(highest[0], highest[1]), fmaxf(highest[2], highest[3])));
    const float raised = fmaxf(state.max_scaled[half], most * scale_log2);
    scores_scale[half] = raised == -INFINITY ? 0.0f : exp2_fast(state.max_scaled[half] - raised);
    // A row that has seen nothing yet. With ranges it may see something later: then its exponentials overflow, and the
    // maximum is computed again.
    state.max_scaled[half] = raised == -INFINITY ? (kIsLocal ? -kUnseen : 0.0f) : raised;
    state.row_sum[half] *= scores_scale[half];
  }
}

// Scores become exponentials relative to max_scaled; total: the sums of the thread's.
template <int kBlockN>
__device__ inline void scale_apply_exp2(float (&s)[kBlockN / 2], float (&total)[2], const OnlineSoftmax& state,
                                        float scale_log2) {
  float part[2][2] = {};
#pragma unroll
  for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * j + i];
      x = exp2_fast(x * scale_log2 - state.max_scaled[i / 2]);
      part[i / 2][i % 2] += x;
    }
#pragma unroll
  for (int half = 0; half < 2; ++half) total[half] = part[half][0] + part[half][1];
}

// Divides by the largest exponential of each row, where it is above one: a sum of one large term is then exact.
// scores_scale: the factor by which the caller must rescale the output.
template <int kBlockN>
__device__ inline void renormalise(float (&scores_scale)[2], float (&s)[kBlockN / 2], float (&total)[2],
                                   OnlineSoftmax& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest[2] = {1.0f, 1.0f};
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) highest[i] = fmaxf(highest[i], s[4 * j + 2 * half + i]);
    const float most = quad_max(fmaxf(highest[0], highest[1]));
    scores_scale[half] = __frcp_rn(most);
    state.max_scaled[half] += __log2f(most);
    state.row_sum[half] *= scores_scale[half];
    total[half] *= scores_scale[half];
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) s[4 * j + 2 * half + i] *= scores_scale[half];
  }
}

// ---- backward: scores are transposed, keys by queries ---------------------------------------------------------------

// Sets the scores of queries that do not see the row's key to -inf, in columns from kFirst to kEnd. begin_query: of the
// thread's two rows, INT_MAX past the tile's keys. begin: the step's first query.
template <int kFirst, int kEnd, int kN>
__device__ inline void apply_mask_transposed(float (&s)[kN], const int (&begin_query)[2], int begin) {
  const int column = begin + 2 * opaque(threadIdx.x % 32 % 4);
  const int hidden[2] = {begin_query[0] - column, begin_query[1] - column};
#pragma unroll
  for (int i = kFirst / 2; i < kEnd / 2; ++i)
    if (8 * (i / 4) + i % 2 < hidden[i / 2 % 2]) s[i] = -INFINITY;
}

// The same with ranges, where a row's key is seen up to end_query. A row past the tile's keys has two zeros.
template <int kFirst, int kEnd, int kN>
__device__ inline void apply_range_mask_transposed(float (&s)[kN], uint32_t begin_query, uint32_t end_query,
                                                   int begin) {
  const int column = begin + 2 * opaque(threadIdx.x % 32 % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int first = load_int(begin_query + 8 * 4 * half), first_column = column - first;
    const auto seen = static_cast<unsigned>(load_int(end_query + 8 * 4 * half) - first);
#pragma unroll
    for (int i = kFirst / 2; i < kEnd / 2; ++i)
      if (i / 2 % 2 == half && static_cast<unsigned>(first_column + 8 * (i / 4) + i % 2) >= seen) s[i] = -INFINITY;
  }
}

// Scores become probabilities, in columns from kFirst to kEnd. lse: the address of that of the step's queries.
template <int kFirst, int kEnd, int kN>
__device__ inline void probabilities_from_lse(float (&s)[kN], uint32_t lse, float scale_log2) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = kFirst / 8; j < kEnd / 8; ++j) {
    const float2 two = load_float2(lse + 8 * (lane % 4) + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(s[4 * j + i] * scale_log2 - (i % 2 == 0 ? two.x : two.y));
  }
}

// From probabilities s and dout v in ds: gradients of scores, in place and as A fragments, and probabilities as A
// fragments. delta: the address of that of the step's queries.
template <int kN>
__device__ inline void score_gradients(uint32_t (&gradients)[kN / 8][4], uint32_t (&probabilities)[kN / 8][4],
                                       const float (&s)[kN], float (&ds)[kN], uint32_t delta) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kN / 4; ++j) {
    const float2 two = load_float2(delta + 8 * (lane % 4) + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) ds[4 * j + i] = s[4 * j + i] * (ds[4 * j + i] - (i % 2 == 0 ? two.x : two.y));
    if (j % 2 != 0) {
      accumulator_to_a_fragment(probabilities[j / 2], s, j / 2);
      accumulator_to_a_fragment(gradients[j / 2], ds, j / 2);
    }
  }
}

}  // namespace scfa::gpu::sm90

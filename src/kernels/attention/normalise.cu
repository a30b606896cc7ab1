// Normalised keys and their gradient. Memory-bound: 8 or 16 lanes per row, one 16-byte access per lane.
#include <algorithm>
#include <type_traits>

#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/normalise.h"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256;

// The elements that a thread works on: kPack consecutive ones of a row. Rows are numbered in (b, t, h) order, the order
// of contiguous keys.
struct LaneElements {
  unsigned row, b, t, h;
  int d;        // the first element
  bool inside;  // the row exists and has these elements
};

// kLanes lanes per row of up to kLanes * kPack elements.
template <int kLanes>
__device__ LaneElements elements_of_lane(unsigned block, unsigned rows, unsigned T, unsigned H, int D) {
  // 32-bit integers: 64-bit divisions would take longer than the memory accesses
  const unsigned row = block * (kThreads / kLanes) + threadIdx.x / kLanes, token = row / H;
  const int d = static_cast<int>(threadIdx.x % kLanes) * kPack;
  return {row, token / T, token % T, row % H, d, row < rows && d < D};
}

template <int kLanes>
__device__ float sum_over_row(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
  return x;
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    normalise_keys_kernel(HeadRows k, float* inverse_norm, HeadRows q, unsigned rows, unsigned T, unsigned H, int D) {
  const LaneElements at = elements_of_lane<kLanes>(blockIdx.x, rows, T, H, D);
  float x[kPack] = {}, square = 0.0f;
  if (at.inside) load(x, q.row(at.b, at.t, at.h) + at.d);
#pragma unroll
  for (int i = 0; i < kPack; ++i) square += x[i] * x[i];
  const float scale = 1.0f / fmaxf(sqrtf(sum_over_row<kLanes>(square)), 1e-12f);
  if (!at.inside) return;
#pragma unroll
  for (int i = 0; i < kPack; ++i) x[i] *= scale;
  store(k.row(at.b, at.t, at.h) + at.d, x);
  if (at.d == 0) inverse_norm[at.row] = scale;
}

template <int kLanes>
__device__ void normalise_row_backward(const LaneElements& at, const HeadRows& dq, const HeadRows& dk,
                                       const HeadRows& k, const float* inverse_norm) {
  float gradient[kPack] = {}, key[kPack] = {}, dot = 0.0f;
  if (at.inside) {
    load(gradient, dk.row(at.b, at.t, at.h) + at.d);
    load(key, k.row(at.b, at.t, at.h) + at.d);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) dot += gradient[i] * key[i];
  dot = sum_over_row<kLanes>(dot);
  if (!at.inside) return;
  const float scale = inverse_norm[at.row];
  __nv_bfloat16* to = dq.row(at.b, at.t, at.h) + at.d;
  float d[kPack];
  load(d, to);
#pragma unroll
  for (int i = 0; i < kPack; ++i) d[i] += (gradient[i] - key[i] * dot) * scale;
  store(to, d);
}

// A grid-stride loop over `blocks` blocks of rows. only_if: null, or a number in device memory; zero: return at once.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    normalise_keys_backward_kernel(HeadRows dq, HeadRows dk, HeadRows k, const float* inverse_norm, const int* only_if,
                                   unsigned blocks, unsigned rows, unsigned T, unsigned H, int D) {
  if (only_if != nullptr && *only_if == 0) return;
  for (unsigned block = blockIdx.x; block < blocks; block += gridDim.x)
    normalise_row_backward<kLanes>(elements_of_lane<kLanes>(block, rows, T, H, D), dq, dk, k, inverse_norm);
}

// ---------------------------------------------------------------------------------------------------------------------

// Calls launch(blocks, rows, lanes per row as a constant): 8 lanes for D up to 64, else 16.
template <class Launch>
void launch_rows(const char* op, const ConstTensor& q, const Launch& launch) {
  const int64_t count = q.size(0) * q.size(1) * q.size(2), lanes = q.size(3) <= 64 ? 8 : 16;
  require(count <= INT32_MAX, op, ": too many rows, ", count);
  const auto rows = static_cast<unsigned>(count);
  const unsigned blocks = blocks_for(count * lanes, kThreads);
  if (lanes == 8)
    launch(blocks, rows, std::integral_constant<int, 8>());
  else
    launch(blocks, rows, std::integral_constant<int, 16>());
}

}  // namespace

void normalise_keys(Context& ctx, Tensor k, Tensor inverse_norm, ConstTensor q) {
  require_packs("normalise_keys", "q", q);
  require_packs("normalise_keys", "k", k);
  launch_rows("normalise_keys", q, [&](unsigned blocks, unsigned rows, auto lanes) {
    normalise_keys_kernel<lanes.value><<<blocks, kThreads, 0, ctx.stream()>>>(
        head_rows(k), inverse_norm.as<float>(), head_rows(q), rows, static_cast<unsigned>(q.size(1)),
        static_cast<unsigned>(q.size(2)), static_cast<int>(q.size(3)));
  });
  check_launch("normalise_keys", ctx.stream());
}

void normalise_keys_backward(Context& ctx, Tensor dq, ConstTensor dk, ConstTensor k, ConstTensor inverse_norm) {
  normalise_keys_backward_if(ctx, dq, dk, k, inverse_norm, nullptr);
}

void normalise_keys_backward_if(Context& ctx, const Tensor& dq, const ConstTensor& dk, const ConstTensor& k,
                                const ConstTensor& inverse_norm, const int* only_if) {
  require_packs("normalise_keys_backward", "dq", dq);
  require_packs("normalise_keys_backward", "dk", dk);
  require_packs("normalise_keys_backward", "k", k);
  launch_rows("normalise_keys_backward", dq, [&](unsigned blocks, unsigned rows, auto lanes) {
    // With only_if the kernel mostly has nothing to do: few blocks, since launching them is then its whole cost.
    const auto few = static_cast<unsigned>(8 * properties().multiprocessors);
    normalise_keys_backward_kernel<lanes.value>
        <<<only_if == nullptr ? blocks : std::min(blocks, few), kThreads, 0, ctx.stream()>>>(
            head_rows(dq), head_rows(dk), head_rows(k), inverse_norm.as<float>(), only_if, blocks, rows,
            static_cast<unsigned>(dq.size(1)), static_cast<unsigned>(dq.size(2)), static_cast<int>(dq.size(3)));
  });
  check_launch("normalise_keys_backward", ctx.stream());
}

}  // namespace scfa::gpu

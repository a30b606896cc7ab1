// Operands of GEMMs in 8-bit floating point: passes over weights, which are small, and over gradients.
#include "kernels/linear/fp8.h"

#include <algorithm>

#include "kernels/fp8_math.cuh"
#include "kernels/linear/workspace.h"

namespace scfa::gpu {

namespace {

using Bf16 = __nv_bfloat16;
constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;  // partial maxima, which every block of the next kernel reads

__device__ inline float max_abs(const float (&v)[kPack]) {
  float largest = 0.0f;
#pragma unroll
  for (int e = 0; e < kPack; ++e) largest = fmaxf(largest, fabsf(v[e]));
  return largest;
}

__global__ void __launch_bounds__(kThreads) max_abs_kernel(float* partial, const Bf16* x, int64_t packs) {
  float largest = 0.0f;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < packs; i += step) {
    float v[kPack];
    load(v, x + i * kPack);
    largest = fmaxf(largest, max_abs(v));
  }
  largest = block_max(largest);
  if (threadIdx.x == 0) partial[blockIdx.x] = largest;
}

// The scale that the partial maxima ask for, in all threads; the first block writes it.
template <DType kType>
__device__ inline float scale_from(const float* partial, int parts, float* scale_out) {
  float largest = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < parts; i += kThreads) largest = fmaxf(largest, partial[i]);
  const float scale = fp8_scale(block_max(largest), kType);
  if (threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0) *scale_out = scale;
  return scale;
}

template <DType kType>
__global__ void __launch_bounds__(kThreads)
    quantise_kernel(uint2* y, float* scale_out, const float* partial, int parts, const Bf16* x, int64_t packs) {
  const float inverse = 1.0f / scale_from<kType>(partial, parts, scale_out);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < packs; i += step) {
    float v[kPack];
    load(v, x + i * kPack);
    y[i] = pack_fp8<kType>(v, inverse);
  }
}

constexpr int kTile = 64;

// A block has a tile of 64 x 64 elements. grid: (K / 64, N / 64), rounded up.
template <DType kType>
__global__ void __launch_bounds__(kThreads)
    quantise_transpose_kernel(uint8_t* y, uint8_t* transposed, float* scale_out, const float* partial, int parts,
                              const Bf16* x, int64_t N, int64_t K) {
  __shared__ alignas(16) uint8_t columns[kTile][kTile + 16];
  const float inverse = 1.0f / scale_from<kType>(partial, parts, scale_out);
  const int64_t first_row = blockIdx.y * int64_t{kTile}, first_column = blockIdx.x * int64_t{kTile};
  constexpr int kPacksPerRow = kTile / kPack;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kPacksPerRow; i += kThreads) {
    const int row = i / kPacksPerRow, column = i % kPacksPerRow * kPack;
    const int64_t n = first_row + row, k = first_column + column;
    if (n >= N || k >= K) continue;
    float v[kPack];
    load(v, x + n * K + k);
    const uint2 codes = pack_fp8<kType>(v, inverse);
    *reinterpret_cast<uint2*>(y + n * K + k) = codes;
#pragma unroll
    for (int e = 0; e < kPack; ++e)
      columns[column + e][row] = static_cast<uint8_t>((e < 4 ? codes.x : codes.y) >> 8 * (e % 4));
  }
  __syncthreads();
  constexpr int kChunk = 16;
  const int column = static_cast<int>(threadIdx.x) / (kTile / kChunk), row = threadIdx.x % (kTile / kChunk) * kChunk;
  const int64_t k = first_column + column, n = first_row + row;
  static_assert(kTile * kTile / kChunk == kThreads);
  if (n < N && k < K)
    *reinterpret_cast<uint4*>(transposed + k * N + n) = *reinterpret_cast<const uint4*>(&columns[column][row]);
}

__global__ void __launch_bounds__(kThreads)
    layernorm_output_scale_kernel(float* scale, const Bf16* w, const Bf16* b, int C) {
  float largest_w = 0.0f, largest_b = 0.0f;
  for (int c = static_cast<int>(threadIdx.x); c < C; c += kThreads) {
    largest_w = fmaxf(largest_w, fabsf(__bfloat162float(w[c])));
    if (b != nullptr) largest_b = fmaxf(largest_b, fabsf(__bfloat162float(b[c])));
  }
  largest_w = block_max(largest_w);
  largest_b = block_max(largest_b);
  if (threadIdx.x == 0) *scale = fp8_scale(layernorm_output_bound(C, largest_w, largest_b), DType::kE4M3);
}

// Partial maxima over rows of w, a warp for each row.
__global__ void __launch_bounds__(kThreads)
    gelu_output_bound_kernel(float* partial, const Bf16* w, const Bf16* norm_w, const Bf16* norm_b, const Bf16* bias,
                             int M, int C) {
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x % 32;
  float bound = 0.0f;
  for (int j = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32; j < M;
       j += static_cast<int>(gridDim.x) * kWarps) {
    float square = 0.0f, shift = 0.0f;
    for (int c = lane * kPack; c < C; c += 32 * kPack) {
      float v[kPack], nw[kPack], nb[kPack] = {};
      load(v, w + static_cast<int64_t>(j) * C + c);
      load(nw, norm_w + c);
      if (norm_b != nullptr) load(nb, norm_b + c);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        square += v[e] * nw[e] * (v[e] * nw[e]);
        shift += v[e] * nb[e];
      }
    }
    square = warp_sum(square);
    shift = warp_sum(shift) + (bias != nullptr ? __bfloat162float(bias[j]) : 0.0f);
    bound = fmaxf(bound, sqrtf(static_cast<float>(C) * square) + fabsf(shift));
  }
  bound = block_max(bound);
  if (threadIdx.x == 0) partial[blockIdx.x] = bound;
}

template <DType kType>
__global__ void __launch_bounds__(kThreads) scale_kernel(float* scale, const float* partial, int parts) {
  scale_from<kType>(partial, parts, scale);
}

__global__ void gelu_gradient_scale_kernel(float* scale, const float* dy, const float* w, int64_t M) {
  *scale = gelu_gradient_scale_of(*dy, *w, M);
}

template <DType kType>
void launch_quantise(Context& ctx, const ScaledTensor& y, const Tensor& transposed, const ConstTensor& x) {
  const auto* in = static_cast<const Bf16*>(x.data);
  const int64_t N = x.rows(), K = x.size(-1), packs = N * K / kPack;
  float *partial = partial_sums(ctx), *scale = y.scale.as<float>();
  constexpr int64_t kPacksPerThread = 4;
  const auto parts =
      static_cast<unsigned>(std::min<int64_t>(kMostBlocks, blocks_for(packs, kThreads * kPacksPerThread)));
  max_abs_kernel<<<parts, kThreads, 0, ctx.stream()>>>(partial, in, packs);
  check_launch("quantise", ctx.stream());
  if (transposed)
    quantise_transpose_kernel<kType><<<dim3(blocks_for(K, kTile), blocks_for(N, kTile)), kThreads, 0, ctx.stream()>>>(
        static_cast<uint8_t*>(y.values.data), static_cast<uint8_t*>(transposed.data), scale, partial,
        static_cast<int>(parts), in, N, K);
  else
    quantise_kernel<kType><<<parts, kThreads, 0, ctx.stream()>>>(static_cast<uint2*>(y.values.data), scale, partial,
                                                                 static_cast<int>(parts), in, packs);
  check_launch("quantise", ctx.stream());
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void quantise(Context& ctx, ScaledTensor y, Tensor transposed, ConstTensor x) {
  if (y.values.dtype == DType::kE4M3) return launch_quantise<DType::kE4M3>(ctx, y, transposed, x);
  launch_quantise<DType::kE5M2>(ctx, y, transposed, x);
}

void layernorm_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor b) {
  layernorm_output_scale_kernel<<<1, kThreads, 0, ctx.stream()>>>(scale.as<float>(), static_cast<const Bf16*>(w.data),
                                                                  static_cast<const Bf16*>(b.data),
                                                                  static_cast<int>(w.numel()));
  check_launch("layernorm_output_scale", ctx.stream());
}

void gelu_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor norm_w, ConstTensor norm_b,
                       ConstTensor bias) {
  constexpr const char* kOp = "gelu_output_scale";
  const auto data = [](const ConstTensor& t) { return static_cast<const Bf16*>(t.data); };
  const auto parts = static_cast<unsigned>(std::min<int64_t>(kMostBlocks, blocks_for(w.size(0), kThreads / 32)));
  gelu_output_bound_kernel<<<parts, kThreads, 0, ctx.stream()>>>(partial_sums(ctx), data(w), data(norm_w), data(norm_b),
                                                                 data(bias), static_cast<int>(w.size(0)),
                                                                 static_cast<int>(w.size(1)));
  check_launch(kOp, ctx.stream());
  scale_kernel<DType::kE4M3>
      <<<1, kThreads, 0, ctx.stream()>>>(scale.as<float>(), partial_sums(ctx), static_cast<int>(parts));
  check_launch(kOp, ctx.stream());
}

void gelu_gradient_scale(Context& ctx, Tensor scale, ConstTensor dy_scale, ConstTensor w_scale, int64_t M) {
  gelu_gradient_scale_kernel<<<1, 1, 0, ctx.stream()>>>(scale.as<float>(), dy_scale.as<float>(), w_scale.as<float>(),
                                                        M);
  check_launch("gelu_gradient_scale", ctx.stream());
}

}  // namespace scfa::gpu

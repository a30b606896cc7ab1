// Layer normalisation fused with the residual addition, on the GPU.        Ba et al. 2016, arXiv:1607.06450
// Memory-bound: what makes it fast is that a row is read once, 16 bytes per thread, and stays in registers between the
// sums and the output; where registers suffice, the next row is loaded meanwhile. Forward, a warp owns a row, so there
// is no shared memory and no block barrier; backward, a block owns it, so that the sums over rows stay in registers
// too.
#include <algorithm>

#include "kernels/device_math.cuh"
#include "kernels/fp8_math.cuh"
#include "kernels/layernorm.h"
#include "kernels/partial_sums.cuh"

namespace scfa::gpu {

namespace {

constexpr int kWarps = 4;                       // rows in flight per block; small blocks keep the tail short
constexpr int kMaxPacks = 4096 / (32 * kPack);  // packs a lane holds for the widest row: 128 registers

// What a later read of the stored element gives back: statistics are taken of the rounded sum.
__device__ inline float rounded(float x, const float*) {
  return x;
}
__device__ inline float rounded(float x, const __nv_bfloat16*) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

template <class T>
struct RawPack;  // kPack elements as they are in memory
template <>
struct RawPack<__nv_bfloat16> {
  uint4 raw;
  __device__ void get(float (&v)[kPack]) const { unpack(v, raw); }
};
template <>
struct RawPack<float> {
  float4 low, high;
  __device__ void get(float (&v)[kPack]) const {
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  }
};
template <class T>
__device__ inline RawPack<T> load_raw(const T* from) {
  return *reinterpret_cast<const RawPack<T>*>(from);
}

// A warp owns every gridDim.x * kWarps-th row; a lane owns packs lane, lane + 32, ... of it. kPacks bounds the packs a
// lane holds. Of narrow rows the next one is loaded while this one is computed, and the weights stay in registers.
// Tuned for C in 256..2048 (kPacks 1..8). Deterministic: every sum has a fixed order.
template <class T, int kPacks, bool kFp8>
__global__ void __launch_bounds__(32 * kWarps)
    layernorm_forward_kernel(T* y, T* r, float* mean, float* rstd, const T* x, const T* skip, const T* w, const T* b,
                             int64_t N, int C, float eps, uint2* y_fp8, const float* fp8_scale) {
  constexpr bool kAhead = kPacks <= 3;
  const int lane = threadIdx.x % 32;
  const auto column = [&](int i) { return (i * 32 + lane) * kPack; };
  constexpr int kHeld = kAhead ? kPacks : 1;
  RawPack<T> next[kHeld], next_skip[kHeld], weight[kHeld], bias[kHeld];
  [[maybe_unused]] const auto load_row = [&](int64_t row) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (column(i) >= C) continue;
      next[i] = load_raw(x + row * C + column(i));
      if (skip != nullptr) next_skip[i] = load_raw(skip + row * C + column(i));
    }
  };
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32,
                step = gridDim.x * int64_t{kWarps};
  if (first >= N) return;
  [[maybe_unused]] const float inverse_scale = kFp8 ? 1.0f / *fp8_scale : 0.0f;
  if constexpr (kAhead) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (column(i) >= C) continue;
      weight[i] = load_raw(w + column(i));
      if (b != nullptr) bias[i] = load_raw(b + column(i));
    }
    load_row(first);
  }
  for (int64_t row = first; row < N; row += step) {
    float v[kPacks][kPack];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (column(i) >= C) continue;
      if constexpr (kAhead)
        next[i].get(v[i]);
      else
        load(v[i], x + row * C + column(i));
      if (skip != nullptr) {
        float add[kPack];
        if constexpr (kAhead)
          next_skip[i].get(add);
        else
          load(add, skip + row * C + column(i));
#pragma unroll
        for (int e = 0; e < kPack; ++e) v[i][e] = rounded(v[i][e] + add[e], r);
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += v[i][e];
    }
    if constexpr (kAhead)
      if (row + step < N) load_row(row + step);
    if (skip != nullptr) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        if (column(i) < C) store(r + row * C + column(i), v[i]);
    }
    const float m = warp_sum(sum) / C;
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kPacks; ++i)
      if (column(i) < C)
#pragma unroll
        for (int e = 0; e < kPack; ++e) square += (v[i][e] - m) * (v[i][e] - m);
    const float s = rsqrtf(warp_sum(square) / C + eps);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (column(i) >= C) continue;
      float scale[kPack], shift[kPack] = {};
      if constexpr (kAhead) {
        weight[i].get(scale);
        if (b != nullptr) bias[i].get(shift);
      } else {
        load(scale, w + column(i));
        if (b != nullptr) load(shift, b + column(i));
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) v[i][e] = (v[i][e] - m) * s * scale[e] + shift[e];
      store(y + row * C + column(i), v[i]);
      if constexpr (kFp8) {
        round_to_bf16(v[i]);
        y_fp8[(row * C + column(i)) / kPack] = pack_fp8<DType::kE4M3>(v[i], inverse_scale);
      }
    }
    if (lane == 0) {
      mean[row] = m;
      rstd[row] = s;
    }
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------
// A thread owns a pack of columns, so that the sums over rows stay in its registers, and a block goes through a range
// of rows, kRows at a time: dy, r and dr are read once, and the next rows are loaded while sums over columns are
// reduced.
constexpr int kRows = 2, kMaxWarps = 4096 / (32 * kPack);

template <class T>
struct Rows {  // what a thread has of them
  RawPack<T> dy[kRows], r[kRows], dr_in[kRows];
  float mean[kRows], rstd[kRows];
};

// The sums over a warp of four values per lane: lane l returns that of value l / 8.
__device__ inline float warp_sum_of_four(const float (&v)[4]) {
  const int lane = threadIdx.x % 32;
  float two[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool high = lane & 16;
    two[i] = (high ? v[2 + i] : v[i]) + __shfl_xor_sync(0xFFFFFFFFu, high ? v[i] : v[2 + i], 16);
  }
  const bool high = lane & 8;
  float one = (high ? two[1] : two[0]) + __shfl_xor_sync(0xFFFFFFFFu, high ? two[0] : two[1], 8);
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) one += __shfl_xor_sync(0xFFFFFFFFu, one, offset);
  return one;
}

// partial (3, gridDim.x, C): sums of dw, db and dr over the rows of a block. blockDim.x: a thread for each pack of a
// row.
template <class T>
__global__ void __launch_bounds__(32 * kMaxWarps)
    layernorm_backward_kernel(T* dr, float* partial, const T* dr_in, const T* dy, const T* r, const T* w,
                              const float* mean, const float* rstd, int64_t N, int C) {
  __shared__ float4 of_warps[2][kMaxWarps];  // sum and dot of each row; two steps in turn
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int c = static_cast<int>(threadIdx.x) * kPack;
  const bool owner = c < C;
  const int64_t begin = N * blockIdx.x / gridDim.x, end = N * (blockIdx.x + 1) / gridDim.x;
  const auto load_rows = [&](Rows<T>& rows, int64_t row) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row + i >= end) {
        rows.dy[i] = {}, rows.r[i] = {}, rows.dr_in[i] = {}, rows.mean[i] = rows.rstd[i] = 0.0f;
        continue;
      }
      rows.mean[i] = mean[row + i], rows.rstd[i] = rstd[row + i];
      const int64_t at = (row + i) * C + c;
      rows.dy[i] = owner ? load_raw(dy + at) : RawPack<T>{};
      rows.r[i] = owner ? load_raw(r + at) : RawPack<T>{};
      rows.dr_in[i] = owner && dr_in != nullptr ? load_raw(dr_in + at) : RawPack<T>{};
    }
  };
  float weight[kPack] = {}, dw[kPack] = {}, db[kPack] = {}, dsum[kPack] = {};
  if (owner) load(weight, w + c);
  int turn = 0;
  constexpr bool kAhead = sizeof(T) == 2;  // f32 rows ahead would take more registers than there are
  Rows<T> next;
  if constexpr (kAhead) load_rows(next, begin);
  for (int64_t row = begin; row < end; row += kRows, turn ^= 1) {
    if constexpr (!kAhead) load_rows(next, row);
    const Rows<T> rows = next;
    if constexpr (kAhead) load_rows(next, row + kRows);
    float sums[2 * kRows] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float g[kPack], x[kPack];
      rows.dy[i].get(g), rows.r[i].get(x);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const float xhat = (x[e] - rows.mean[i]) * rows.rstd[i];
        dw[e] += g[e] * xhat;
        db[e] += g[e];
        sums[2 * i] += g[e] * weight[e];
        sums[2 * i + 1] += g[e] * weight[e] * xhat;
      }
    }
    static_assert(2 * kRows == 4);
    const float sum_of_warp = warp_sum_of_four(sums);
    if (lane % 8 == 0) reinterpret_cast<float*>(&of_warps[turn][warp])[lane / 8] = sum_of_warp;
    __syncthreads();
    float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int k = 0; k < warps; ++k) {
      const float4 part = of_warps[turn][k];
      all.x += part.x, all.y += part.y, all.z += part.z, all.w += part.w;
    }
    const float sum[kRows] = {all.x / C, all.z / C}, dot[kRows] = {all.y / C, all.w / C};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row + i >= end || !owner) continue;
      float g[kPack], x[kPack], d[kPack];
      rows.dy[i].get(g), rows.r[i].get(x), rows.dr_in[i].get(d);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        d[e] += (g[e] * weight[e] - sum[i] - (x[e] - rows.mean[i]) * rows.rstd[i] * dot[i]) * rows.rstd[i];
        dsum[e] += d[e];
      }
      store(dr + (row + i) * C + c, d);
    }
  }
  if (!owner) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * C;
  float* to = partial + static_cast<int64_t>(blockIdx.x) * C + c;
  store(to, dw);
  store(to + stride, db);
  store(to + 2 * stride, dsum);
}

// Adds the partial sums of all blocks. grid: (C / kPartialColumns, 3).
__global__ void __launch_bounds__(kPartialColumns* kPartialThreads)
    add_partials_kernel(float* dw, float* db, float* dr_sum, const float* partial, int blocks, int C) {
  float* const to = blockIdx.y == 0 ? dw : blockIdx.y == 1 ? db : dr_sum;
  if (to != nullptr) add_partial_sums(to, partial + static_cast<int64_t>(blockIdx.y) * blocks * C, blocks, C);
}

// ---------------------------------------------------------------------------------------------------------------------

template <class T, bool kFp8>
void forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip, ConstTensor w,
             ConstTensor b, float eps, const ScaledTensor& y_fp8) {
  const int64_t N = y.rows();
  const int C = static_cast<int>(y.size(-1));
  constexpr int kBlocksPerMultiprocessor = 4;
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((N + kWarps - 1) / kWarps, int64_t{kBlocksPerMultiprocessor} * properties().multiprocessors));
  const int packs = (C + 32 * kPack - 1) / (32 * kPack);
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, 32 * kWarps, 0, ctx.stream()>>>(
        static_cast<T*>(y.data), static_cast<T*>(r.data), mean.as<float>(), rstd.as<float>(),
        static_cast<const T*>(x.data), static_cast<const T*>(skip.data), static_cast<const T*>(w.data),
        static_cast<const T*>(b.data), N, C, eps, static_cast<uint2*>(y_fp8.values.data),
        kFp8 ? y_fp8.scale.as<float>() : nullptr);
  };
  if (packs <= 1)
    launch(layernorm_forward_kernel<T, 1, kFp8>);
  else if (packs <= 3)
    launch(layernorm_forward_kernel<T, 3, kFp8>);
  else if (packs <= 8)
    launch(layernorm_forward_kernel<T, 8, kFp8>);
  else
    launch(layernorm_forward_kernel<T, kMaxPacks, kFp8>);
  check_launch("layernorm_forward", ctx.stream());
}

template <class T>
void backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, Tensor dr_sum, ConstTensor dr_in, ConstTensor dy,
              ConstTensor r, ConstTensor w, ConstTensor mean, ConstTensor rstd, Tensor scratch) {
  const int64_t N = dy.rows();
  const int C = static_cast<int>(dy.size(-1));
  const int64_t most = layernorm_backward_scratch(ctx, N, C) / (3 * static_cast<int64_t>(C));
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(most, (N + kRows - 1) / kRows));
  const unsigned warps = blocks_for(C, 32 * kPack);
  layernorm_backward_kernel<T><<<blocks, 32 * warps, 0, ctx.stream()>>>(
      static_cast<T*>(dr.data), scratch.as<float>(), static_cast<const T*>(dr_in.data), static_cast<const T*>(dy.data),
      static_cast<const T*>(r.data), static_cast<const T*>(w.data), mean.as<float>(), rstd.as<float>(), N, C);
  check_launch("layernorm_backward", ctx.stream());
  const auto pointer = [](const Tensor& t) { return t ? t.as<float>() : nullptr; };
  add_partials_kernel<<<dim3(blocks_for(C, kPartialColumns), 3), kPartialColumns * kPartialThreads, 0, ctx.stream()>>>(
      dw.as<float>(), pointer(db), pointer(dr_sum), scratch.as<float>(), static_cast<int>(blocks), C);
  check_launch("layernorm_backward", ctx.stream());
}

}  // namespace

void layernorm_forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip,
                       ConstTensor w, ConstTensor b, float eps, ScaledTensor y_fp8) {
  if (y.dtype == DType::kF32) return forward<float, false>(ctx, y, r, mean, rstd, x, skip, w, b, eps, {});
  require(y.dtype == DType::kBF16, "layernorm_forward: y must be bf16 or f32, not ", name_of(y.dtype));
  if (y_fp8) return forward<__nv_bfloat16, true>(ctx, y, r, mean, rstd, x, skip, w, b, eps, y_fp8);
  forward<__nv_bfloat16, false>(ctx, y, r, mean, rstd, x, skip, w, b, eps, {});
}

void layernorm_backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, Tensor dr_sum, ConstTensor dr_in, ConstTensor dy,
                        ConstTensor r, ConstTensor w, ConstTensor mean, ConstTensor rstd, Tensor scratch) {
  if (dy.dtype == DType::kF32) return backward<float>(ctx, dr, dw, db, dr_sum, dr_in, dy, r, w, mean, rstd, scratch);
  require(dy.dtype == DType::kBF16, "layernorm_backward: dy must be bf16 or f32, not ", name_of(dy.dtype));
  backward<__nv_bfloat16>(ctx, dr, dw, db, dr_sum, dr_in, dy, r, w, mean, rstd, scratch);
}

}  // namespace scfa::gpu

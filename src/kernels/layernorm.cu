// Layer normalisation fused with the residual addition, on the GPU.        Ba et al. 2016, arXiv:1607.06450
// Memory-bound: what makes it fast is that a row is read once, 16 bytes a thread, and stays in registers between the
// two sums and the output. One warp owns a row, so there is no shared memory and no block barrier in the row's path.
#include "kernels/device_math.cuh"
#include "kernels/layernorm.h"

namespace scfa::gpu {

namespace {

constexpr int kWarps = 4;                       // rows in flight a block; small blocks keep the tail short
constexpr int kMaxPacks = 4096 / (32 * kPack);  // packs a lane holds for the widest row: 128 registers

// What a later read of the stored element gives back: statistics are taken of the rounded sum.
__device__ inline float rounded(float x, const float*) {
  return x;
}
__device__ inline float rounded(float x, const __nv_bfloat16*) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

// A warp owns a row; a lane owns packs lane, lane + 32, ... of it. kPacks bounds the packs a lane holds. Tuned for
// C in 256..2048 (kPacks 1..8). Deterministic: every sum has a fixed order.
template <class T, int kPacks>
__global__ void __launch_bounds__(32 * kWarps)
    layernorm_forward_kernel(T* y, T* r, float* mean, float* rstd, const T* x, const T* skip, const T* w, const T* b,
                             int64_t N, int C, float eps) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= N) return;
  float v[kPacks][kPack];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int c = (i * 32 + lane) * kPack;
    if (c < C) {
      load(v[i], x + row * C + c);
      if (skip != nullptr) {
        float add[kPack];
        load(add, skip + row * C + c);
#pragma unroll
        for (int e = 0; e < kPack; ++e) v[i][e] = rounded(v[i][e] + add[e], r);
        store(r + row * C + c, v[i]);
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += v[i][e];
    }
  }
  const float m = warp_sum(sum) / C;
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < kPacks; ++i)
    if ((i * 32 + lane) * kPack < C)
#pragma unroll
      for (int e = 0; e < kPack; ++e) square += (v[i][e] - m) * (v[i][e] - m);
  const float s = rsqrtf(warp_sum(square) / C + eps);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int c = (i * 32 + lane) * kPack;
    if (c < C) {
      float weight[kPack], bias[kPack] = {};
      load(weight, w + c);
      if (b != nullptr) load(bias, b + c);
#pragma unroll
      for (int e = 0; e < kPack; ++e) v[i][e] = (v[i][e] - m) * s * weight[e] + bias[e];
      store(y + row * C + c, v[i]);
    }
  }
  if (lane == 0) {
    mean[row] = m;
    rstd[row] = s;
  }
}

// dr: a warp owns a row, as in forward; the row is read twice, the second time from L1.
template <class T>
__global__ void __launch_bounds__(32 * kWarps)
    layernorm_backward_rows_kernel(T* dr, const T* dy, const T* r, const T* w, const float* mean, const float* rstd,
                                   int64_t N, int C) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= N) return;
  const float m = mean[row], s = rstd[row];
  float sum = 0.0f, dot = 0.0f;
  for (int c = lane * kPack; c < C; c += 32 * kPack) {
    float g[kPack], x[kPack], weight[kPack];
    load(g, dy + row * C + c);
    load(x, r + row * C + c);
    load(weight, w + c);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      sum += g[e] * weight[e];
      dot += g[e] * weight[e] * (x[e] - m) * s;
    }
  }
  sum = warp_sum(sum) / C;
  dot = warp_sum(dot) / C;
  for (int c = lane * kPack; c < C; c += 32 * kPack) {
    float g[kPack], x[kPack], weight[kPack], d[kPack];
    load(g, dy + row * C + c);
    load(x, r + row * C + c);
    load(weight, w + c);
    load(d, dr + row * C + c);
#pragma unroll
    for (int e = 0; e < kPack; ++e) d[e] += (g[e] * weight[e] - sum - (x[e] - m) * s * dot) * s;
    store(dr + row * C + c, d);
  }
}

constexpr int kColumnWarps = 8;

// Partial dw and db: block (k, j) sums a contiguous range of rows of 32 packs of columns, a pack a lane; its warps take
// turns with the rows, four at a time in flight, and add up in warp order. partial is (2, gridDim.x, C).
template <class T>
__global__ void __launch_bounds__(32 * kColumnWarps)
    layernorm_backward_columns_kernel(float* partial, const T* dy, const T* r, const float* mean, const float* rstd,
                                      int64_t N, int C) {
  __shared__ float sums[kColumnWarps][2][32 * kPack];
  const int64_t begin = N * blockIdx.x / gridDim.x, end = N * (blockIdx.x + 1) / gridDim.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int c = (static_cast<int>(blockIdx.y) * 32 + lane) * kPack;
  float dw[kPack] = {}, db[kPack] = {};
  if (c < C) {
#pragma unroll 4
    for (int64_t row = begin + warp; row < end; row += kColumnWarps) {
      float g[kPack], x[kPack];
      load(g, dy + row * C + c);
      load(x, r + row * C + c);
      const float m = mean[row], s = rstd[row];
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        dw[e] += g[e] * (x[e] - m) * s;
        db[e] += g[e];
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    sums[warp][0][e * 32 + lane] = dw[e];
    sums[warp][1][e * 32 + lane] = db[e];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * 32 * kPack; i += 32 * kColumnWarps) {
    const int which = i / (32 * kPack), column = i % (32 * kPack);
    const int to = static_cast<int>(blockIdx.y) * 32 * kPack + column;
    if (to >= C) continue;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kColumnWarps; ++w) sum += sums[w][which][column % kPack * 32 + column / kPack];
    partial[(static_cast<int64_t>(which) * gridDim.x + blockIdx.x) * C + to] = sum;
  }
}

// Adds the partial sums in block order. A thread owns a column.
__global__ void __launch_bounds__(256)
    add_partials_kernel(float* dw, float* db, const float* partial, int blocks, int C) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= C) return;
  float sum = 0.0f, sum_b = 0.0f;
  for (int k = 0; k < blocks; ++k) {
    sum += partial[static_cast<int64_t>(k) * C + c];
    sum_b += partial[(static_cast<int64_t>(blocks) + k) * C + c];
  }
  dw[c] += sum;
  if (db != nullptr) db[c] += sum_b;
}

// ---------------------------------------------------------------------------------------------------------------------

template <class T>
void forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip, ConstTensor w,
             ConstTensor b, float eps) {
  const int64_t N = y.rows();
  const int C = static_cast<int>(y.size(-1));
  const unsigned blocks = static_cast<unsigned>((N + kWarps - 1) / kWarps);
  const int packs = (C + 32 * kPack - 1) / (32 * kPack);
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, 32 * kWarps, 0, ctx.stream()>>>(static_cast<T*>(y.data), static_cast<T*>(r.data), mean.as<float>(),
                                                     rstd.as<float>(), static_cast<const T*>(x.data),
                                                     static_cast<const T*>(skip.data), static_cast<const T*>(w.data),
                                                     static_cast<const T*>(b.data), N, C, eps);
  };
  if (packs <= 1)
    launch(layernorm_forward_kernel<T, 1>);
  else if (packs <= 3)
    launch(layernorm_forward_kernel<T, 3>);
  else if (packs <= 8)
    launch(layernorm_forward_kernel<T, 8>);
  else
    launch(layernorm_forward_kernel<T, kMaxPacks>);
  check_launch("layernorm_forward", ctx.stream());
}

template <class T>
void backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, ConstTensor dy, ConstTensor r, ConstTensor w,
              ConstTensor mean, ConstTensor rstd, Tensor scratch) {
  const int64_t N = dy.rows();
  const int C = static_cast<int>(dy.size(-1));
  const unsigned rows = static_cast<unsigned>((N + kWarps - 1) / kWarps);
  layernorm_backward_rows_kernel<T><<<rows, 32 * kWarps, 0, ctx.stream()>>>(
      static_cast<T*>(dr.data), static_cast<const T*>(dy.data), static_cast<const T*>(r.data),
      static_cast<const T*>(w.data), mean.as<float>(), rstd.as<float>(), N, C);
  check_launch("layernorm_backward", ctx.stream());
  const int blocks = static_cast<int>(layernorm_backward_scratch(ctx, N, C) / (2 * static_cast<int64_t>(C)));
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>((C + 32 * kPack - 1) / (32 * kPack)));
  layernorm_backward_columns_kernel<T><<<grid, 32 * kColumnWarps, 0, ctx.stream()>>>(
      scratch.as<float>(), static_cast<const T*>(dy.data), static_cast<const T*>(r.data), mean.as<float>(),
      rstd.as<float>(), N, C);
  check_launch("layernorm_backward", ctx.stream());
  add_partials_kernel<<<static_cast<unsigned>((C + 255) / 256), 256, 0, ctx.stream()>>>(
      dw.as<float>(), db ? db.as<float>() : nullptr, scratch.as<float>(), blocks, C);
  check_launch("layernorm_backward", ctx.stream());
}

}  // namespace

void layernorm_forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip,
                       ConstTensor w, ConstTensor b, float eps) {
  if (y.dtype == DType::kF32) return forward<float>(ctx, y, r, mean, rstd, x, skip, w, b, eps);
  require(y.dtype == DType::kBF16, "layernorm_forward: y must be bf16 or f32, not ", name_of(y.dtype));
  forward<__nv_bfloat16>(ctx, y, r, mean, rstd, x, skip, w, b, eps);
}

void layernorm_backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, ConstTensor dy, ConstTensor r, ConstTensor w,
                        ConstTensor mean, ConstTensor rstd, Tensor scratch) {
  if (dy.dtype == DType::kF32) return backward<float>(ctx, dr, dw, db, dy, r, w, mean, rstd, scratch);
  require(dy.dtype == DType::kBF16, "layernorm_backward: dy must be bf16 or f32, not ", name_of(dy.dtype));
  backward<__nv_bfloat16>(ctx, dr, dw, db, dy, r, w, mean, rstd, scratch);
}

}  // namespace scfa::gpu

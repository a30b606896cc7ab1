// Softmax cross-entropy and its gradient in place.
// A block owns a row. Rows of up to kThreads * kPacks * 8 logits stay in registers between the sums and the gradient,
// so memory sees one read and one write; longer ones are read twice.
#include "kernels/cross_entropy.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

namespace {

constexpr float kLog2E = 1.442695041f, kLn2 = 0.693147181f;

// Up to kPack elements from column c on; columns outside [0, V) read as -inf. `aligned`: rows start at 16 bytes.
__device__ inline void load_columns(float (&v)[kPack], const __nv_bfloat16* row, int c, int V, bool aligned) {
  if (aligned && c + kPack <= V) return load(v, row + c);
#pragma unroll
  for (int e = 0; e < kPack; ++e) v[e] = c + e < V ? __bfloat162float(row[c + e]) : -INFINITY;
}
__device__ inline void store_columns(__nv_bfloat16* row, int c, int P, bool aligned, const float (&v)[kPack]) {
  if (aligned && c + kPack <= P) return store(row + c, v);
#pragma unroll
  for (int e = 0; e < kPack; ++e)
    if (c + e < P) row[c + e] = __float2bfloat16_rn(v[e]);
}

// kPacks: packs of a row that a thread holds; 0: none, the row is read again for the gradient.
template <int kThreads, int kPacks>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(float* losses, float* correct, __nv_bfloat16* logits, const int* targets, int V, int P,
                         float gradient_scale) {
  const int64_t i = blockIdx.x;
  __nv_bfloat16* row = logits + i * P;  // i is 64 bits wide
  const bool aligned = P % kPack == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0;
  const int target = targets[i];
  const bool known = target >= 0 && target < V;
  const float of_target = known ? __bfloat162float(row[target]) : NAN;
  uint4 held[kPacks > 0 ? kPacks : 1];  // as they came: exponentials are computed twice rather than kept
  float top = -INFINITY, sum = 0.0f;
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      load_columns(v, row, (n * kThreads + static_cast<int>(threadIdx.x)) * kPack, V, aligned);
      held[n] = pack(v);
#pragma unroll
      for (int e = 0; e < kPack; ++e) top = fmaxf(top, v[e]);
    }
    top = block_max(top);
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      unpack(v, held[n]);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += exp2f((v[e] - top) * kLog2E);
    }
  } else {
    for (int c = static_cast<int>(threadIdx.x) * kPack; c < V; c += kThreads * kPack) {
      float v[kPack], highest = top;
      load_columns(v, row, c, V, aligned);
#pragma unroll
      for (int e = 0; e < kPack; ++e) highest = fmaxf(highest, v[e]);
      const float base = highest == -INFINITY ? 0.0f : highest;  // so far -inf, or NaN, which must reach the sum
      sum *= exp2f((top - base) * kLog2E);
      top = highest;
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += exp2f((v[e] - base) * kLog2E);
    }
    const float own = top;
    top = block_max(top);
    if (own != -INFINITY) sum *= exp2f((own - top) * kLog2E);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    losses[i] = top + log2f(sum) * kLn2 - of_target;  // NaN where the target is outside the vocabulary
    correct[i] = of_target == top ? 1.0f : 0.0f;
  }
  if (gradient_scale == 0.0f) return;
  const float scale = known ? gradient_scale / sum : NAN;
  const auto write = [&](float(&v)[kPack], int64_t c) {
#pragma unroll
    for (int e = 0; e < kPack; ++e)
      v[e] = exp2f((v[e] - top) * kLog2E) * scale - (c + e == target ? gradient_scale : 0.0f);
#pragma unroll
    for (int e = 0; e < kPack; ++e)
      if (c + e >= V) v[e] = 0.0f;
    store_columns(row, c, P, aligned, v);
  };
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      unpack(v, held[n]);
      write(v, (n * kThreads + static_cast<int>(threadIdx.x)) * kPack);
    }
  } else {
    for (int c = static_cast<int>(threadIdx.x) * kPack; c < P; c += kThreads * kPack) {
      float v[kPack];
      load_columns(v, row, c, V, aligned);
      write(v, c);
    }
  }
}

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    add_losses_kernel(double* sums, const float* losses, const float* correct, int64_t n) {
  double loss = 0.0, hit = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) loss += losses[i], hit += correct[i];
  loss = block_sum(loss);
  hit = block_sum(hit);
  if (threadIdx.x == 0) sums[0] += loss, sums[1] += hit;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void cross_entropy(Context& ctx, Tensor losses, Tensor correct, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale) {
  const int64_t N = logits.size(0), P = logits.size(1);
  const auto launch = [&](auto kernel, int threads) {
    kernel<<<static_cast<unsigned>(N), static_cast<unsigned>(threads), 0, ctx.stream()>>>(
        losses.as<float>(), correct.as<float>(), static_cast<__nv_bfloat16*>(logits.data), targets.as<int32_t>(),
        static_cast<int>(vocabulary), static_cast<int>(P), gradient_scale);
  };
  if (P <= 128 * kPack)
    launch(cross_entropy_kernel<128, 1>, 128);
  else if (P <= 512 * 4 * kPack)
    launch(cross_entropy_kernel<512, 4>, 512);
  else if (P <= 512 * 14 * kPack)
    launch(cross_entropy_kernel<512, 14>, 512);
  else
    launch(cross_entropy_kernel<512, 0>, 512);
  check_launch("cross_entropy", ctx.stream());
}

void add_losses(Context& ctx, Tensor sums, ConstTensor losses, ConstTensor correct, int64_t n) {
  add_losses_kernel<<<1, kSumThreads, 0, ctx.stream()>>>(sums.as<double>(), losses.as<float>(), correct.as<float>(), n);
  check_launch("add_losses", ctx.stream());
}

}  // namespace scfa::gpu

// GELU and its gradient; memory-bound, eight elements a thread.        Hendrycks & Gimpel 2016, arXiv:1606.08415
#include "kernels/device_math.cuh"
#include "kernels/gelu.h"

namespace scfa::gpu {

namespace {

constexpr float kSqrtHalf = 0.70710678f, kSqrt2OverPi = 0.79788456f, kInvSqrt2Pi = 0.39894228f, kCubic = 0.044715f;

template <Gelu kKind>
__device__ float value(float x) {
  if constexpr (kKind == Gelu::kErf) return 0.5f * x * (1.0f + erff(x * kSqrtHalf));
  return 0.5f * x * (1.0f + tanhf(kSqrt2OverPi * (x + kCubic * x * x * x)));
}

template <Gelu kKind>
__device__ float slope(float x) {
  if constexpr (kKind == Gelu::kErf) return 0.5f * (1.0f + erff(x * kSqrtHalf)) + x * kInvSqrt2Pi * expf(-0.5f * x * x);
  const float t = tanhf(kSqrt2OverPi * (x + kCubic * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * x * x);
}

// out = value(x), or with dy: dy * slope(x). out may be dy.
template <Gelu kKind, bool kBackward>
__global__ void __launch_bounds__(256)
    gelu_kernel(__nv_bfloat16* out, const __nv_bfloat16* dy, const __nv_bfloat16* x, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const auto apply = [](float in, float gradient) {
    return kBackward ? gradient * slope<kKind>(in) : value<kKind>(in);
  };
  if (i + kPack <= n) {
    float v[kPack], g[kPack] = {};
    load(v, x + i);
    if constexpr (kBackward) load(g, dy + i);
#pragma unroll
    for (int e = 0; e < kPack; ++e) v[e] = apply(v[e], g[e]);
    store(out + i, v);
  } else {
    for (int64_t j = i; j < n; ++j) assign(out[j], apply(to_float(x[j]), kBackward ? to_float(dy[j]) : 0.0f));
  }
}

template <bool kBackward>
void launch(Context& ctx, const char* op, const Tensor& out, const ConstTensor& dy, const ConstTensor& x, Gelu kind) {
  const int64_t n = x.numel();
  const auto run = [&](auto kernel) {
    kernel<<<blocks_for((n + kPack - 1) / kPack, 256), 256, 0, ctx.stream()>>>(
        static_cast<__nv_bfloat16*>(out.data), static_cast<const __nv_bfloat16*>(dy.data),
        static_cast<const __nv_bfloat16*>(x.data), n);
  };
  if (kind == Gelu::kErf)
    run(gelu_kernel<Gelu::kErf, kBackward>);
  else
    run(gelu_kernel<Gelu::kTanh, kBackward>);
  check_launch(op, ctx.stream());
}

}  // namespace

void gelu_forward(Context& ctx, Tensor y, ConstTensor x, Gelu kind) {
  launch<false>(ctx, "gelu_forward", y, {}, x, kind);
}

void gelu_backward(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor x, Gelu kind) {
  launch<true>(ctx, "gelu_backward", dx, dy, x, kind);
}

}  // namespace scfa::gpu

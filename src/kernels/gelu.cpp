#include "kernels/gelu.h"

#include "kernels/vector_math.h"

namespace scfa {

namespace {

constexpr float kSqrtHalf = 0.70710678f;
constexpr float kSqrt2OverPi = 0.79788456f;
constexpr float kInvSqrt2Pi = 0.39894228f;
constexpr float kCubic = 0.044715f;

void check(const char* op, const Tensor& out, const ConstTensor& in, const char* name) {
  require(out.data && in.data && out.contiguous() && in.contiguous() && out.same_shape(in) && out.dtype == in.dtype, op,
          ": ", name, " must be contiguous and like the output, ", out.describe(), ", not ", in.describe());
}

}  // namespace

void gelu_forward(Context& ctx, Tensor y, ConstTensor x, Gelu kind) {
  check("gelu_forward", y, x, "x");
  require_activation(ctx, "gelu_forward", "x", x);
  ctx.require_here("gelu_forward", {y, x});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, "gelu_forward");
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_forward(ctx, y, x, kind);
  cpu::gelu_forward(ctx, y, x, kind);
}

void gelu_backward(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor x, Gelu kind) {
  check("gelu_backward", dx, dy, "dy");
  check("gelu_backward", dx, x, "x");
  require_activation(ctx, "gelu_backward", "x", x);
  ctx.require_here("gelu_backward", {dx, dy, x});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, "gelu_backward");
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_backward(ctx, dx, dy, x, kind);
  cpu::gelu_backward(ctx, dx, dy, x, kind);
}

namespace cpu {

void gelu_forward(Context& /*ctx*/, Tensor y, ConstTensor x, Gelu kind) {
  const int64_t n = x.numel();
  const float* in = x.as<float>();
  float* out = y.as<float>();
  if (kind == Gelu::kErf) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) out[i] = 0.5f * in[i] * (1.0f + verf(in[i] * kSqrtHalf));
  } else {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) {
      const float v = in[i];
      out[i] = 0.5f * v * (1.0f + vtanh(kSqrt2OverPi * (v + kCubic * v * v * v)));
    }
  }
}

void gelu_backward(Context& /*ctx*/, Tensor dx, ConstTensor dy, ConstTensor x, Gelu kind) {
  const int64_t n = x.numel();
  const float *in = x.as<float>(), *g = dy.as<float>();
  float* out = dx.as<float>();
  if (kind == Gelu::kErf) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) {
      const float v = in[i];
      out[i] = g[i] * (0.5f * (1.0f + verf(v * kSqrtHalf)) + v * kInvSqrt2Pi * vexp(-0.5f * v * v));
    }
  } else {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) {
      const float v = in[i], t = vtanh(kSqrt2OverPi * (v + kCubic * v * v * v));
      const float slope = 0.5f * v * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * v * v);
      out[i] = g[i] * (0.5f * (1.0f + t) + slope);
    }
  }
}

}  // namespace cpu
}  // namespace scfa

#include "kernels/linear/gelu.h"

#include "kernels/fp8_codec.h"
#include "kernels/linear/column_sums_cpu.h"
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

// out = f(x + bias, of element i) by rows.
template <class F>
void for_rows(const Tensor& out, const ConstTensor& x, const ConstTensor& bias, const F& f) {
  const int64_t N = x.rows(), C = x.size(-1);
  const float *in = x.as<float>(), *b = bias ? bias.as<float>() : nullptr;
  float* to = out.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    const float* row = in + i * C;
    if (b != nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) to[i * C + c] = f(row[c] + b[c], i * C + c);
    } else {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) to[i * C + c] = f(row[c], i * C + c);
    }
  }
}

}  // namespace

void gelu_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor bias, Gelu kind, ScaledTensor y_fp8) {
  constexpr const char* kOp = "gelu_forward";
  check(kOp, y, x, "x");
  if (bias) require_tensor(bias, kOp, "bias", x.dtype, {x.size(-1)});
  require_activation(ctx, kOp, "x", x);
  check_fp8_copy(kOp, "y_fp8", y_fp8, DType::kE4M3, y);
  ctx.require_here(kOp, {y, x, bias, y_fp8.values, y_fp8.scale});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_forward(ctx, y, x, bias, kind, y_fp8);
  cpu::gelu_forward(ctx, y, x, bias, kind, y_fp8);
}

void gelu_backward(Context& ctx, Tensor dx, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor bias, Gelu kind,
                   ScaledTensor dx_fp8) {
  constexpr const char* kOp = "gelu_backward";
  check(kOp, dx, dy, "dy");
  check(kOp, dx, x, "x");
  if (bias) require_tensor(bias, kOp, "bias", x.dtype, {x.size(-1)});
  if (dbias) require_tensor(dbias, kOp, "dbias", DType::kF32, {x.size(-1)});
  require_activation(ctx, kOp, "x", x);
  check_fp8_copy(kOp, "dx_fp8", dx_fp8, DType::kE5M2, dx);
  ctx.require_here(kOp, {dx, dbias, dy, x, bias, dx_fp8.values, dx_fp8.scale});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_backward(ctx, dx, dbias, dy, x, bias, kind, dx_fp8);
  cpu::gelu_backward(ctx, dx, dbias, dy, x, bias, kind, dx_fp8);
}

namespace cpu {

void gelu_forward(Context& /*ctx*/, Tensor y, ConstTensor x, ConstTensor bias, Gelu kind, ScaledTensor y_fp8) {
  if (kind == Gelu::kErf)
    for_rows(y, x, bias, [](float v, int64_t) { return 0.5f * v * (1.0f + verf(v * kSqrtHalf)); });
  else
    for_rows(y, x, bias,
             [](float v, int64_t) { return 0.5f * v * (1.0f + vtanh(kSqrt2OverPi * (v + kCubic * v * v * v))); });
  if (y_fp8) encode_fp8(y_fp8, y);
}

void gelu_backward(Context& /*ctx*/, Tensor dx, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor bias,
                   Gelu kind, ScaledTensor dx_fp8) {
  const float* g = dy.as<float>();
  if (kind == Gelu::kErf)
    for_rows(dx, x, bias, [g](float v, int64_t i) {
      return g[i] * (0.5f * (1.0f + verf(v * kSqrtHalf)) + v * kInvSqrt2Pi * vexp(-0.5f * v * v));
    });
  else
    for_rows(dx, x, bias, [g](float v, int64_t i) {
      const float t = vtanh(kSqrt2OverPi * (v + kCubic * v * v * v));
      const float slope = 0.5f * v * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * v * v);
      return g[i] * (0.5f * (1.0f + t) + slope);
    });
  if (dbias) add_column_sums(dbias.as<float>(), dx.as<float>(), dx.rows(), dx.size(-1));
  if (dx_fp8) encode_fp8(dx_fp8, dx);
}

}  // namespace cpu
}  // namespace scfa

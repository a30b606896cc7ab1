#include "kernels/linear/fp8.h"

#include <algorithm>
#include <cmath>

#include "kernels/fp8_codec.h"

namespace scfa {

namespace {

void require_scale(const char* op, const char* argument, const ConstTensor& scale) {
  require_tensor(scale, op, argument, DType::kF32, {1});
}

}  // namespace

void quantise(Context& ctx, ScaledTensor y, Tensor transposed, ConstTensor x) {
  constexpr const char* kOp = "quantise";
  require(x.data != nullptr && x.contiguous(), kOp, ": x must be contiguous, not ",
          x.data == nullptr ? "empty" : x.describe());
  require_activation(ctx, kOp, "x", x);
  const int64_t N = x.rows(), K = x.size(-1);
  require(N % 16 == 0 && K % 16 == 0, kOp, ": rows and columns must be multiples of 16, not ", N, " and ", K);
  require(is_fp8(y.values.dtype), kOp, ": y must be e4m3 or e5m2, not ", y.values.describe());
  require_elements(y.values, kOp, "y", y.values.dtype, N * K);
  require_scale(kOp, "y's scale", y.scale);
  if (transposed) require_tensor(transposed, kOp, "transposed", y.values.dtype, {K, N});
  ctx.require_here(kOp, {y.values, y.scale, transposed, x});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::quantise(ctx, y, transposed, x);
  cpu::quantise(ctx, y, transposed, x);
}

void layernorm_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor b) {
  constexpr const char* kOp = "layernorm_output_scale";
  require_scale(kOp, "scale", scale);
  require_activation(ctx, kOp, "w", w);
  require_tensor(w, kOp, "w", w.dtype, {w.numel()});
  if (b) require_tensor(b, kOp, "b", w.dtype, {w.numel()});
  ctx.require_here(kOp, {scale, w, b});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::layernorm_output_scale(ctx, scale, w, b);
  cpu::layernorm_output_scale(ctx, scale, w, b);
}

void gelu_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor norm_w, ConstTensor norm_b,
                       ConstTensor bias) {
  constexpr const char* kOp = "gelu_output_scale";
  require_scale(kOp, "scale", scale);
  require(w.ndim == 2, kOp, ": w must have 2 dimensions, not ", w.ndim);
  require_activation(ctx, kOp, "w", w);
  const int64_t M = w.size(0), C = w.size(1);
  require(!ctx.on_gpu() || C % 8 == 0, kOp, ": on the GPU the width must be a multiple of 8, not ", C);
  require_tensor(w, kOp, "w", w.dtype, {M, C});
  require_tensor(norm_w, kOp, "norm_w", w.dtype, {C});
  if (norm_b) require_tensor(norm_b, kOp, "norm_b", w.dtype, {C});
  if (bias) require_tensor(bias, kOp, "bias", w.dtype, {M});
  ctx.require_here(kOp, {scale, w, norm_w, norm_b, bias});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_output_scale(ctx, scale, w, norm_w, norm_b, bias);
  cpu::gelu_output_scale(ctx, scale, w, norm_w, norm_b, bias);
}

void gelu_gradient_scale(Context& ctx, Tensor scale, ConstTensor dy_scale, ConstTensor w_scale, int64_t M) {
  constexpr const char* kOp = "gelu_gradient_scale";
  require_scale(kOp, "scale", scale);
  require_scale(kOp, "dy_scale", dy_scale);
  require_scale(kOp, "w_scale", w_scale);
  ctx.require_here(kOp, {scale, dy_scale, w_scale});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gelu_gradient_scale(ctx, scale, dy_scale, w_scale, M);
  cpu::gelu_gradient_scale(ctx, scale, dy_scale, w_scale, M);
}

namespace cpu {

void quantise(Context& /*ctx*/, ScaledTensor y, Tensor transposed, ConstTensor x) {
  const int64_t N = x.rows(), K = x.size(-1);
  const float* in = x.as<float>();
  float largest = 0.0f;
#pragma omp parallel for reduction(max : largest)
  for (int64_t i = 0; i < N * K; ++i) largest = std::max(largest, std::fabs(in[i]));
  const DType type = y.values.dtype;
  const float scale = fp8_scale(largest, type), inverse = 1.0f / scale;
  *y.scale.as<float>() = scale;
  auto* out = static_cast<uint8_t*>(y.values.data);
  auto* columns = static_cast<uint8_t*>(transposed.data);
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i)
    for (int64_t k = 0; k < K; ++k) {
      out[i * K + k] = encode_fp8(in[i * K + k] * inverse, type);
      if (columns != nullptr) columns[k * N + i] = out[i * K + k];
    }
}

void layernorm_output_scale(Context& /*ctx*/, Tensor scale, ConstTensor w, ConstTensor b) {
  const int64_t C = w.numel();
  float largest_w = 0.0f, largest_b = 0.0f;
  for (int64_t c = 0; c < C; ++c) {
    largest_w = std::max(largest_w, std::fabs(w.as<float>()[c]));
    if (b) largest_b = std::max(largest_b, std::fabs(b.as<float>()[c]));
  }
  *scale.as<float>() = fp8_scale(layernorm_output_bound(C, largest_w, largest_b), DType::kE4M3);
}

void gelu_output_scale(Context& /*ctx*/, Tensor scale, ConstTensor w, ConstTensor norm_w, ConstTensor norm_b,
                       ConstTensor bias) {
  const int64_t M = w.size(0), C = w.size(1);
  const float *weight = w.as<float>(), *nw = norm_w.as<float>(), *nb = norm_b ? norm_b.as<float>() : nullptr;
  float bound = 0.0f;
#pragma omp parallel for reduction(max : bound)
  for (int64_t j = 0; j < M; ++j) {
    float square = 0.0f, shift = bias ? bias.as<float>()[j] : 0.0f;
    for (int64_t c = 0; c < C; ++c) {
      const float scaled = weight[j * C + c] * nw[c];
      square += scaled * scaled;
      if (nb != nullptr) shift += weight[j * C + c] * nb[c];
    }
    bound = std::max(bound, std::sqrt(static_cast<float>(C) * square) + std::fabs(shift));
  }
  *scale.as<float>() = fp8_scale(bound, DType::kE4M3);
}

void gelu_gradient_scale(Context& /*ctx*/, Tensor scale, ConstTensor dy_scale, ConstTensor w_scale, int64_t M) {
  *scale.as<float>() = gelu_gradient_scale_of(*dy_scale.as<float>(), *w_scale.as<float>(), M);
}

}  // namespace cpu
}  // namespace scfa

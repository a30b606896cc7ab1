#include "kernels/attention/normalise.h"

#include <algorithm>
#include <cmath>

namespace scfa {

namespace {

void check_strided(const char* op, const char* name, const ConstTensor& t, const ConstTensor& inverse_norm) {
  require(t.data && t.ndim == 4 && t.stride[3] == 1, op, ": ", name, " must be (B, T, H, D), not ", t.describe());
  require_tensor(inverse_norm, op, "inverse_norm", DType::kF32, {t.size(0), t.size(1), t.size(2)});
}

void check_packed(const char* op, const char* name, const ConstTensor& t, const ConstTensor& like) {
  require(t.data && t.contiguous() && t.same_shape(like) && t.dtype == like.dtype, op, ": ", name,
          " must be contiguous and like ", like.describe(), ", not ", t.describe());
}

}  // namespace

void normalise_keys(Context& ctx, Tensor k, Tensor inverse_norm, ConstTensor q) {
  check_strided("normalise_keys", "q", q, inverse_norm);
  check_packed("normalise_keys", "k", k, q);
  ctx.require_here("normalise_keys", {k, inverse_norm, q});
  const ProfileRange range(ctx, "normalise_keys", Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::normalise_keys(ctx, k, inverse_norm, q);
  cpu::normalise_keys(ctx, k, inverse_norm, q);
}

void normalise_keys_backward(Context& ctx, Tensor dq, ConstTensor dk, ConstTensor k, ConstTensor inverse_norm) {
  check_strided("normalise_keys_backward", "dq", dq, inverse_norm);
  check_packed("normalise_keys_backward", "dk", dk, dq);
  check_packed("normalise_keys_backward", "k", k, dq);
  ctx.require_here("normalise_keys_backward", {dq, dk, k, inverse_norm});
  const ProfileRange range(ctx, "normalise_keys_backward", Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
  cpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
}

namespace cpu {

void normalise_keys(Context& /*ctx*/, Tensor k, Tensor inverse_norm, ConstTensor q) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3);
  const float* in = q.as<float>();
  float *out = k.as<float>(), *inverse = inverse_norm.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < B * T; ++i)
    for (int64_t h = 0; h < H; ++h) {
      const float* x = in + i / T * q.stride[0] + i % T * q.stride[1] + h * q.stride[2];
      float square = 0.0f;
#pragma omp simd reduction(+ : square)
      for (int64_t d = 0; d < D; ++d) square += x[d] * x[d];
      const float s = 1.0f / std::max(std::sqrt(square), 1e-12f);
      inverse[i * H + h] = s;
      for (int64_t d = 0; d < D; ++d) out[(i * H + h) * D + d] = x[d] * s;
    }
}

void normalise_keys_backward(Context& /*ctx*/, Tensor dq, ConstTensor dk, ConstTensor k, ConstTensor inverse_norm) {
  const int64_t B = dq.size(0), T = dq.size(1), H = dq.size(2), D = dq.size(3);
  const float *gradient = dk.as<float>(), *key = k.as<float>(), *inverse = inverse_norm.as<float>();
  float* out = dq.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < B * T; ++i)
    for (int64_t h = 0; h < H; ++h) {
      float* dx = out + i / T * dq.stride[0] + i % T * dq.stride[1] + h * dq.stride[2];
      const float *g = gradient + (i * H + h) * D, *u = key + (i * H + h) * D;
      const float s = inverse[i * H + h];
      float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < D; ++d) dot += g[d] * u[d];
      for (int64_t d = 0; d < D; ++d) dx[d] += (g[d] - u[d] * dot) * s;
    }
}

}  // namespace cpu
}  // namespace scfa

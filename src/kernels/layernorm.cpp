#include "kernels/layernorm.h"

#include <algorithm>
#include <cmath>

#include "kernels/fp8_codec.h"

namespace scfa {

namespace {

constexpr int64_t kBackwardBlocks = 660;  // partial sums of dw, db and dr_sum on the GPU: five blocks per SM of an H100

void require_rows(const ConstTensor& t, const char* op, const char* argument, const ConstTensor& like) {
  require(t.data != nullptr && t.contiguous() && t.rows() == like.rows() && t.size(-1) == like.size(-1) &&
              t.dtype == like.dtype && t.device == like.device,
          op, ": ", argument, " must be contiguous and like y, ", like.describe(), ", not ",
          t.data == nullptr ? "empty" : t.describe());
}

void require_gpu_width(const Context& ctx, const char* op, int64_t C) {
  require(!ctx.on_gpu() || (C % 8 == 0 && C <= 4096), op, ": on the GPU the width must be a multiple of 8 up to 4096, ",
          "not ", C);
}

}  // namespace

int64_t layernorm_backward_scratch(const Context& ctx, int64_t /*N*/, int64_t C) {
  return ctx.on_gpu() ? 3 * kBackwardBlocks * C : 0;
}

void layernorm_forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip,
                       ConstTensor w, ConstTensor b, float eps, ScaledTensor y_fp8) {
  constexpr const char* kOp = "layernorm_forward";
  require_rows(y, kOp, "y", y);
  const int64_t N = y.rows(), C = y.size(-1);
  require_rows(x, kOp, "x", y);
  if (skip) {
    require_rows(skip, kOp, "skip", y);
    require_rows(r, kOp, "r", y);
  }
  require_tensor(w, kOp, "w", y.dtype, {C});
  if (b) require_tensor(b, kOp, "b", y.dtype, {C});
  require_elements(mean, kOp, "mean", DType::kF32, N);
  require_elements(rstd, kOp, "rstd", DType::kF32, N);
  check_fp8_copy(kOp, "y_fp8", y_fp8, DType::kE4M3, y);
  if (y_fp8) require_activation(ctx, kOp, "y", y);
  ctx.require_here(kOp, {y, r, mean, rstd, x, skip, w, b, y_fp8.values, y_fp8.scale});
  require_gpu_width(ctx, kOp, C);
  if (N == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::layernorm_forward(ctx, y, r, mean, rstd, x, skip, w, b, eps, y_fp8);
  cpu::layernorm_forward(ctx, y, r, mean, rstd, x, skip, w, b, eps, y_fp8);
}

void layernorm_backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, Tensor dr_sum, ConstTensor dr_in, ConstTensor dy,
                        ConstTensor r, ConstTensor w, ConstTensor mean, ConstTensor rstd, Tensor scratch) {
  constexpr const char* kOp = "layernorm_backward";
  require_rows(dy, kOp, "dy", dy);
  const int64_t N = dy.rows(), C = dy.size(-1);
  require_rows(dr, kOp, "dr", dy);
  if (dr_in) require_rows(dr_in, kOp, "dr_in", dy);
  require_rows(r, kOp, "r", dy);
  require_tensor(w, kOp, "w", dy.dtype, {C});
  require_tensor(dw, kOp, "dw", DType::kF32, {C});
  if (db) require_tensor(db, kOp, "db", DType::kF32, {C});
  if (dr_sum) require_tensor(dr_sum, kOp, "dr_sum", DType::kF32, {C});
  require_elements(mean, kOp, "mean", DType::kF32, N);
  require_elements(rstd, kOp, "rstd", DType::kF32, N);
  ctx.require_here(kOp, {dr, dw, db, dr_sum, dr_in, dy, r, w, mean, rstd, scratch});
  require_gpu_width(ctx, kOp, C);
  const int64_t needed = layernorm_backward_scratch(ctx, N, C);
  require(needed == 0 || (scratch && scratch.numel() >= needed), kOp, ": scratch must have ", needed, " elements");
  if (N == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::layernorm_backward(ctx, dr, dw, db, dr_sum, dr_in, dy, r, w, mean, rstd, scratch);
  cpu::layernorm_backward(ctx, dr, dw, db, dr_sum, dr_in, dy, r, w, mean, rstd, scratch);
}

namespace cpu {

void layernorm_forward(Context& /*ctx*/, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip,
                       ConstTensor w, ConstTensor b, float eps, ScaledTensor y_fp8) {
  const int64_t N = y.rows(), C = y.size(-1);
  const float *in = x.as<float>(), *add = skip ? skip.as<float>() : nullptr;
  const float *weight = w.as<float>(), *bias = b ? b.as<float>() : nullptr;
  float *out = y.as<float>(), *sum_out = skip ? r.as<float>() : nullptr;
  float *mean_out = mean.as<float>(), *rstd_out = rstd.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    const float* row = in + i * C;
    if (add) {
      float* s = sum_out + i * C;
      for (int64_t c = 0; c < C; ++c) s[c] = row[c] + add[i * C + c];
      row = s;
    }
    float sum = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; ++c) sum += row[c];
    const float m = sum / static_cast<float>(C);
#pragma omp simd reduction(+ : square)
    for (int64_t c = 0; c < C; ++c) square += (row[c] - m) * (row[c] - m);
    const float s = 1.0f / std::sqrt(square / static_cast<float>(C) + eps);
    for (int64_t c = 0; c < C; ++c) out[i * C + c] = (row[c] - m) * s * weight[c] + (bias ? bias[c] : 0.0f);
    mean_out[i] = m;
    rstd_out[i] = s;
  }
  if (y_fp8) encode_fp8(y_fp8, y);
}

void layernorm_backward(Context& /*ctx*/, Tensor dr, Tensor dw, Tensor db, Tensor dr_sum, ConstTensor dr_in,
                        ConstTensor dy, ConstTensor r, ConstTensor w, ConstTensor mean, ConstTensor rstd,
                        Tensor /*scratch*/) {
  const int64_t N = dy.rows(), C = dy.size(-1);
  const float *g = dy.as<float>(), *x = r.as<float>(), *weight = w.as<float>();
  const float *m = mean.as<float>(), *s = rstd.as<float>();
  const float* before = dr_in ? dr_in.as<float>() : nullptr;
  float *dx = dr.as<float>(), *dweight = dw.as<float>(), *dbias = db ? db.as<float>() : nullptr;
  float* dsum = dr_sum ? dr_sum.as<float>() : nullptr;
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    float sum = 0.0f, dot = 0.0f;  // means of dy*w and of dy*w*xhat
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t c = 0; c < C; ++c) {
      const float t = g[i * C + c] * weight[c];
      sum += t;
      dot += t * (x[i * C + c] - m[i]) * s[i];
    }
    sum /= static_cast<float>(C);
    dot /= static_cast<float>(C);
    for (int64_t c = 0; c < C; ++c) {
      const float xhat = (x[i * C + c] - m[i]) * s[i];
      dx[i * C + c] = (before ? before[i * C + c] : 0.0f) + (g[i * C + c] * weight[c] - sum - xhat * dot) * s[i];
    }
  }
  constexpr int64_t kColumns = 64;  // a thread owns whole columns, so the order of the sums is fixed
#pragma omp parallel for
  for (int64_t c0 = 0; c0 < C; c0 += kColumns) {
    const int64_t c1 = std::min(c0 + kColumns, C);
    for (int64_t i = 0; i < N; ++i)
      for (int64_t c = c0; c < c1; ++c) {
        dweight[c] += g[i * C + c] * (x[i * C + c] - m[i]) * s[i];
        if (dbias) dbias[c] += g[i * C + c];
        if (dsum) dsum[c] += dx[i * C + c];
      }
  }
}

}  // namespace cpu
}  // namespace scfa

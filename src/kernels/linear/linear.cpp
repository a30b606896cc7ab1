#include "kernels/linear/linear.h"

#include <cblas.h>

#include "core/blas_startup.h"
#include "kernels/linear/column_sums_cpu.h"

namespace scfa {

namespace {

using Initialiser = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used]] const Initialiser kBeforeAll = &check_blas_startup;

int blas_int(int64_t size) {
  require(size <= INT32_MAX, "linear: a dimension of ", size, " is more than BLAS can index");
  return static_cast<int>(size);
}

void require_matrix(const Context& ctx, const char* op, const char* argument, const ConstTensor& t, int64_t rows,
                    int64_t columns) {
  require(t.data != nullptr && t.contiguous() && t.rows() == rows && t.size(-1) == columns, op, ": ", argument,
          " must be contiguous (", rows, ", ", columns, "), not ", t.data == nullptr ? "empty" : t.describe());
  require_activation(ctx, op, argument, t);
}

void require_weight(const Context& ctx, const char* op, const ConstTensor& w) {
  require(w.ndim == 2, op, ": w must have 2 dimensions, not ", w.ndim);
  require_activation(ctx, op, "w", w);
}

void check_forward(const Context& ctx, const char* op, const Tensor& y, const ConstTensor& x, const ConstTensor& w,
                   const ConstTensor& bias) {
  require_weight(ctx, op, w);
  require_matrix(ctx, op, "x", x, x.rows(), w.size(1));
  require_matrix(ctx, op, "y", y, x.rows(), w.size(0));
  if (bias) require_tensor(bias, op, "bias", w.dtype, {w.size(0)});
  ctx.require_here(op, {y, x, w, bias});
}

}  // namespace

void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  constexpr const char* kOp = "linear_forward";
  check_forward(ctx, kOp, y, x, w, bias);
  if (y.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_forward(ctx, y, x, w, bias);
  cpu::linear_forward(ctx, y, x, w, bias);
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor product, ConstTensor x, ConstTensor w, ConstTensor bias,
                         Gelu kind) {
  constexpr const char* kOp = "linear_gelu_forward";
  check_forward(ctx, kOp, y, x, w, bias);
  require_matrix(ctx, kOp, "product", product, x.rows(), w.size(0));
  ctx.require_here(kOp, {product});
  if (y.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_gelu_forward(ctx, y, product, x, w, bias, kind);
  cpu::linear_gelu_forward(ctx, y, product, x, w, bias, kind);
}

void linear_dgrad(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w) {
  constexpr const char* kOp = "linear_dgrad";
  require_weight(ctx, kOp, w);
  require_matrix(ctx, kOp, "dy", dy, dy.rows(), w.size(0));
  require_matrix(ctx, kOp, "dx", dx, dy.rows(), w.size(1));
  ctx.require_here(kOp, {dx, dy, w});
  if (dx.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_dgrad(ctx, dx, dy, w);
  cpu::linear_dgrad(ctx, dx, dy, w);
}

void linear_gelu_dgrad(Context& ctx, Tensor dproduct, Tensor dbias, ConstTensor dy, ConstTensor w, ConstTensor product,
                       ConstTensor bias, Gelu kind) {
  constexpr const char* kOp = "linear_gelu_dgrad";
  require_weight(ctx, kOp, w);
  require_matrix(ctx, kOp, "dy", dy, dy.rows(), w.size(0));
  require_matrix(ctx, kOp, "dproduct", dproduct, dy.rows(), w.size(1));
  require_matrix(ctx, kOp, "product", product, dy.rows(), w.size(1));
  if (bias) require_tensor(bias, kOp, "bias", w.dtype, {w.size(1)});
  if (dbias) require_tensor(dbias, kOp, "dbias", DType::kF32, {w.size(1)});
  ctx.require_here(kOp, {dproduct, dbias, dy, w, product, bias});
  if (dproduct.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_gelu_dgrad(ctx, dproduct, dbias, dy, w, product, bias, kind);
  cpu::linear_gelu_dgrad(ctx, dproduct, dbias, dy, w, product, bias, kind);
}

void linear_wgrad(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  constexpr const char* kOp = "linear_wgrad";
  require(dw.ndim == 2, kOp, ": dw must have 2 dimensions, not ", dw.ndim);
  require_matrix(ctx, kOp, "dy", dy, dy.rows(), dw.size(0));
  require_matrix(ctx, kOp, "x", x, dy.rows(), dw.size(1));
  require_tensor(dw, kOp, "dw", DType::kF32, {dw.size(0), dw.size(1)});
  ctx.require_here(kOp, {dw, dy, x});
  if (dy.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_wgrad(ctx, dw, dy, x);
  cpu::linear_wgrad(ctx, dw, dy, x);
}

void linear_bgrad(Context& ctx, Tensor dbias, ConstTensor dy) {
  constexpr const char* kOp = "linear_bgrad";
  require(dy.data != nullptr && dy.contiguous(), kOp, ": dy must be contiguous, not ",
          dy.data == nullptr ? "empty" : dy.describe());
  require_activation(ctx, kOp, "dy", dy);
  require_tensor(dbias, kOp, "dbias", DType::kF32, {dy.size(-1)});
  ctx.require_here(kOp, {dbias, dy});
  if (dy.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_bgrad(ctx, dbias, dy);
  cpu::linear_bgrad(ctx, dbias, dy);
}

namespace cpu {

void linear_forward(Context& /*ctx*/, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  const int64_t N = x.rows(), M = w.size(0);
  const int n = blas_int(N), k = blas_int(w.size(1)), m = blas_int(M);
  float* out = y.as<float>();
  if (bias) {
    const float* b = bias.as<float>();
#pragma omp parallel for
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j < M; ++j) out[i * M + j] = b[j];
  }
  const float beta = bias ? 1.0f : 0.0f;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, m, k, 1.0f, x.as<float>(), k, w.as<float>(), k, beta, out, m);
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor product, ConstTensor x, ConstTensor w, ConstTensor bias,
                         Gelu kind) {
  cpu::linear_forward(ctx, product, x, w, {});
  cpu::gelu_forward(ctx, y, product, bias, kind);
}

void linear_dgrad(Context& /*ctx*/, Tensor dx, ConstTensor dy, ConstTensor w) {
  const int n = blas_int(dy.rows()), k = blas_int(w.size(1)), m = blas_int(w.size(0));
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, k, m, 1.0f, dy.as<float>(), m, w.as<float>(), k, 0.0f,
              dx.as<float>(), k);
}

void linear_gelu_dgrad(Context& ctx, Tensor dproduct, Tensor dbias, ConstTensor dy, ConstTensor w, ConstTensor product,
                       ConstTensor bias, Gelu kind) {
  cpu::linear_dgrad(ctx, dproduct, dy, w);
  cpu::gelu_backward(ctx, dproduct, dbias, dproduct, product, bias, kind);
}

void linear_wgrad(Context& /*ctx*/, Tensor dw, ConstTensor dy, ConstTensor x) {
  const int n = blas_int(dy.rows()), k = blas_int(dw.size(1)), m = blas_int(dw.size(0));
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, k, n, 1.0f, dy.as<float>(), m, x.as<float>(), k, 1.0f,
              dw.as<float>(), k);
}

void linear_bgrad(Context& /*ctx*/, Tensor dbias, ConstTensor dy) {
  add_column_sums(dbias.as<float>(), dy.as<float>(), dy.rows(), dy.size(-1));
}

}  // namespace cpu
}  // namespace scfa

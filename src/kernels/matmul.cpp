#include "kernels/matmul.h"

#include <cblas.h>

#include "core/blas_startup.h"

namespace scfa {

namespace {

using Initialiser = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used]] const Initialiser kBeforeAll = &check_blas_startup;

int blas_int(int64_t size, const char* op) {
  require(size <= INT32_MAX, op, ": a dimension of ", size, " is more than BLAS can index");
  return static_cast<int>(size);
}

void require_matrix(const ConstTensor& t, const char* op, const char* argument, int64_t rows, int64_t columns) {
  require(t.data != nullptr && t.contiguous() && t.rows() == rows && t.size(-1) == columns, op, ": ", argument,
          " must be contiguous (", rows, ", ", columns, "), not ", t.data == nullptr ? "empty" : t.describe());
}

}  // namespace

void matmul_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  constexpr const char* kOp = "matmul_forward";
  require(w.ndim == 2, kOp, ": w must have 2 dimensions, not ", w.ndim);
  require_matrix(x, kOp, "x", x.rows(), w.size(1));
  require_matrix(y, kOp, "y", x.rows(), w.size(0));
  if (bias) require_tensor(bias, kOp, "bias", w.dtype, {w.size(0)});
  require_activation(ctx, kOp, "x", x);
  require_activation(ctx, kOp, "w", w);
  require_activation(ctx, kOp, "y", y);
  ctx.require_here(kOp, {y, x, w, bias});
  if (y.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::matmul_forward(ctx, y, x, w, bias);
  cpu::matmul_forward(ctx, y, x, w, bias);
}

void matmul_backward(Context& ctx, Tensor dx, Tensor dw, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor w) {
  constexpr const char* kOp = "matmul_backward";
  require(w.ndim == 2, kOp, ": w must have 2 dimensions, not ", w.ndim);
  require_matrix(dy, kOp, "dy", dy.rows(), w.size(0));
  require_matrix(x, kOp, "x", dy.rows(), w.size(1));
  if (dx) require_matrix(dx, kOp, "dx", dy.rows(), w.size(1));
  if (dw) require_tensor(dw, kOp, "dw", DType::kF32, {w.size(0), w.size(1)});
  if (dbias) require_tensor(dbias, kOp, "dbias", DType::kF32, {w.size(0)});
  require_activation(ctx, kOp, "dy", dy);
  require_activation(ctx, kOp, "x", x);
  require_activation(ctx, kOp, "w", w);
  require_activation(ctx, kOp, "dx", dx);
  ctx.require_here(kOp, {dx, dw, dbias, dy, x, w});
  if (dy.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::matmul_backward(ctx, dx, dw, dbias, dy, x, w);
  cpu::matmul_backward(ctx, dx, dw, dbias, dy, x, w);
}

namespace cpu {

void matmul_forward(Context& /*ctx*/, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  const int64_t N = x.rows(), K = w.size(1), M = w.size(0);
  const int n = blas_int(N, "matmul_forward"), k = blas_int(K, "matmul_forward"), m = blas_int(M, "matmul_forward");
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

void matmul_backward(Context& /*ctx*/, Tensor dx, Tensor dw, Tensor dbias, ConstTensor dy, ConstTensor x,
                     ConstTensor w) {
  const int64_t N = dy.rows(), K = w.size(1), M = w.size(0);
  const int n = blas_int(N, "matmul_backward"), k = blas_int(K, "matmul_backward"), m = blas_int(M, "matmul_backward");
  const float* g = dy.as<float>();
  if (dx)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, k, m, 1.0f, g, m, w.as<float>(), k, 0.0f, dx.as<float>(),
                k);
  if (dw)
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, k, n, 1.0f, g, m, x.as<float>(), k, 1.0f, dw.as<float>(),
                k);
  if (!dbias) return;
  float* db = dbias.as<float>();
  constexpr int64_t kColumns = 64;  // a thread owns whole columns, so the order of the sum is fixed
#pragma omp parallel for
  for (int64_t j0 = 0; j0 < M; j0 += kColumns) {
    const int64_t j1 = j0 + kColumns < M ? j0 + kColumns : M;
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = j0; j < j1; ++j) db[j] += g[i * M + j];
  }
}

}  // namespace cpu
}  // namespace scfa

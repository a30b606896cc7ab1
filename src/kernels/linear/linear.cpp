#include "kernels/linear/linear.h"

#include <cblas.h>

#include <vector>

#include "core/blas_startup.h"
#include "kernels/fp8_codec.h"
#include "kernels/linear/column_sums_cpu.h"

namespace scfa {

namespace {

using Initialiser = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used]] const Initialiser kBeforeAll = &check_blas_startup;

int blas_int(int64_t size) {
  require(size <= INT32_MAX, "linear: a dimension of ", size, " is more than BLAS can index");
  return static_cast<int>(size);
}

void require_rows(const char* op, const char* argument, const ConstTensor& t, int64_t rows, int64_t columns) {
  require(t.data != nullptr && t.contiguous() && t.rows() == rows && t.size(-1) == columns, op, ": ", argument,
          " must be contiguous (", rows, ", ", columns, "), not ", t.data == nullptr ? "empty" : t.describe());
}

void require_matrix(const Context& ctx, const char* op, const char* argument, const ConstTensor& t, int64_t rows,
                    int64_t columns) {
  require_rows(op, argument, t, rows, columns);
  require_activation(ctx, op, argument, t);
}

// Of y = x w^T, where `inner` is the type of x that goes with an 8-bit w.
void check_gemm(const Context& ctx, const char* op, const char* output, const Tensor& y, const char* input,
                const GemmOperand& x, const GemmOperand& w, DType inner) {
  require(w.values.ndim == 2, op, ": w must have 2 dimensions, not ", w.values.ndim);
  require(x.scaled() == w.scaled(), op, ": ", input, " and w must both be scaled or neither");
  const int64_t N = x.values.rows(), M = w.values.size(0), K = w.values.size(1);
  require_rows(op, input, x.values, N, K);
  require_rows(op, "w", w.values, M, K);
  require_matrix(ctx, op, output, y, N, M);
  if (x.scaled()) {
    require(x.values.dtype == inner && w.values.dtype == DType::kE4M3, op, ": ", input, " must be ", name_of(inner),
            " and w e4m3 where they are scaled, not ", x.values.describe(), " and ", w.values.describe());
    require_tensor(x.scale, op, concat("the scale of ", input).c_str(), DType::kF32, {1});
    require_tensor(w.scale, op, "the scale of w", DType::kF32, {1});
    for (const void* scale : {x.scale.data, w.scale.data})
      require(!ctx.on_gpu() || reinterpret_cast<uintptr_t>(scale) % 16 == 0, op, ": scales must be 16-byte aligned");
    require(!ctx.on_gpu() || (N % 16 == 0 && M % 16 == 0 && K % 16 == 0), op,
            ": sizes of GEMMs in 8 bits must be multiples of 16, not ", N, ", ", M, " and ", K);
  } else {
    require_activation(ctx, op, input, x.values);
    require_activation(ctx, op, "w", w.values);
  }
  ctx.require_here(op, {y, x.values, x.scale, w.values, w.scale});
}

// dx = dy w, where w is given as (M, K), or scaled and transposed.
void check_dgrad(const Context& ctx, const char* op, const char* output, const Tensor& dx, const GemmOperand& dy,
                 const GemmOperand& w) {
  if (w.scaled()) return check_gemm(ctx, op, output, dx, "dy", dy, w, DType::kE5M2);
  require(w.values.ndim == 2, op, ": w must have 2 dimensions, not ", w.values.ndim);
  require_activation(ctx, op, "w", w.values);
  require_matrix(ctx, op, "dy", dy.values, dy.values.rows(), w.values.size(0));
  require_matrix(ctx, op, output, dx, dy.values.rows(), w.values.size(1));
  ctx.require_here(op, {dx, dy.values, w.values});
}

void check_bias(const Context& ctx, const char* op, const ConstTensor& bias, int64_t size) {
  if (!bias) return;
  require_tensor(bias, op, "bias", activation_type(ctx.device()), {size});
  ctx.require_here(op, {bias});
}

}  // namespace

void linear_forward(Context& ctx, Tensor y, GemmOperand x, GemmOperand w, ConstTensor bias) {
  constexpr const char* kOp = "linear_forward";
  check_gemm(ctx, kOp, "y", y, "x", x, w, DType::kE4M3);
  check_bias(ctx, kOp, bias, y.size(-1));
  if (y.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_forward(ctx, y, x, w, bias);
  cpu::linear_forward(ctx, y, x, w, bias);
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor pre_gelu, GemmOperand x, GemmOperand w, ConstTensor bias,
                         Gelu kind, ScaledTensor y_fp8) {
  constexpr const char* kOp = "linear_gelu_forward";
  check_gemm(ctx, kOp, "pre_gelu", pre_gelu, "x", x, w, DType::kE4M3);
  require_matrix(ctx, kOp, "y", y, x.values.rows(), pre_gelu.size(-1));
  check_bias(ctx, kOp, bias, y.size(-1));
  check_fp8_copy(kOp, "y_fp8", y_fp8, DType::kE4M3, y);
  ctx.require_here(kOp, {y, y_fp8.values, y_fp8.scale});
  if (y.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_gelu_forward(ctx, y, pre_gelu, x, w, bias, kind, y_fp8);
  cpu::linear_gelu_forward(ctx, y, pre_gelu, x, w, bias, kind, y_fp8);
}

void linear_dgrad(Context& ctx, Tensor dx, GemmOperand dy, GemmOperand w) {
  constexpr const char* kOp = "linear_dgrad";
  check_dgrad(ctx, kOp, "dx", dx, dy, w);
  if (dx.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_dgrad(ctx, dx, dy, w);
  cpu::linear_dgrad(ctx, dx, dy, w);
}

void linear_gelu_dgrad(Context& ctx, Tensor dpre_gelu, Tensor dbias, GemmOperand dy, GemmOperand w,
                       ConstTensor pre_gelu, ConstTensor bias, Gelu kind, ScaledTensor dpre_gelu_fp8) {
  constexpr const char* kOp = "linear_gelu_dgrad";
  check_dgrad(ctx, kOp, "dpre_gelu", dpre_gelu, dy, w);
  const int64_t K = dpre_gelu.size(-1);
  require_matrix(ctx, kOp, "pre_gelu", pre_gelu, dpre_gelu.rows(), K);
  check_bias(ctx, kOp, bias, K);
  if (dbias) require_tensor(dbias, kOp, "dbias", DType::kF32, {K});
  check_fp8_copy(kOp, "dpre_gelu_fp8", dpre_gelu_fp8, DType::kE5M2, dpre_gelu);
  ctx.require_here(kOp, {dbias, pre_gelu, dpre_gelu_fp8.values, dpre_gelu_fp8.scale});
  if (dpre_gelu.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::linear_gelu_dgrad(ctx, dpre_gelu, dbias, dy, w, pre_gelu, bias, kind, dpre_gelu_fp8);
  cpu::linear_gelu_dgrad(ctx, dpre_gelu, dbias, dy, w, pre_gelu, bias, kind, dpre_gelu_fp8);
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

namespace {

// The elements of an operand in f32: its own, or what its codes stand for.
class Widened {
 public:
  explicit Widened(const GemmOperand& operand) {
    if (!operand.scaled()) {
      data_ = operand.values.as<float>();
      return;
    }
    float of_code[256];
    for (int code = 0; code < 256; ++code)
      of_code[code] = decode_fp8(static_cast<uint8_t>(code), operand.values.dtype) * *operand.scale.as<float>();
    const auto* codes = static_cast<const uint8_t*>(operand.values.data);
    const int64_t n = operand.values.numel();
    own_.resize(static_cast<size_t>(n));
#pragma omp parallel for
    for (int64_t i = 0; i < n; ++i) own_[static_cast<size_t>(i)] = of_code[codes[i]];
    data_ = own_.data();
  }
  const float* data() const {
    return data_;
  }

 private:
  const float* data_;
  std::vector<float> own_;
};

}  // namespace

void linear_forward(Context& /*ctx*/, Tensor y, GemmOperand x, GemmOperand w, ConstTensor bias) {
  const int64_t N = x.values.rows(), M = w.values.size(0);
  const int n = blas_int(N), k = blas_int(w.values.size(1)), m = blas_int(M);
  float* out = y.as<float>();
  if (bias) {
    const float* b = bias.as<float>();
#pragma omp parallel for
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j < M; ++j) out[i * M + j] = b[j];
  }
  const float beta = bias ? 1.0f : 0.0f;
  const Widened rows(x), weight(w);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, m, k, 1.0f, rows.data(), k, weight.data(), k, beta, out, m);
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor pre_gelu, GemmOperand x, GemmOperand w, ConstTensor bias,
                         Gelu kind, ScaledTensor y_fp8) {
  cpu::linear_forward(ctx, pre_gelu, x, w, {});
  cpu::gelu_forward(ctx, y, pre_gelu, bias, kind, y_fp8);
}

void linear_dgrad(Context& ctx, Tensor dx, GemmOperand dy, GemmOperand w) {
  if (w.scaled()) return cpu::linear_forward(ctx, dx, dy, w, {});
  const int n = blas_int(dy.values.rows()), k = blas_int(w.values.size(1)), m = blas_int(w.values.size(0));
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, k, m, 1.0f, dy.values.as<float>(), m, w.values.as<float>(),
              k, 0.0f, dx.as<float>(), k);
}

void linear_gelu_dgrad(Context& ctx, Tensor dpre_gelu, Tensor dbias, GemmOperand dy, GemmOperand w,
                       ConstTensor pre_gelu, ConstTensor bias, Gelu kind, ScaledTensor dpre_gelu_fp8) {
  cpu::linear_dgrad(ctx, dpre_gelu, dy, w);
  cpu::gelu_backward(ctx, dpre_gelu, dbias, dpre_gelu, pre_gelu, bias, kind, dpre_gelu_fp8);
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

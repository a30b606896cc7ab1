#include "kernels/linear/linear.h"

#include "kernels/linear/gemm.h"

namespace scfa::gpu {

namespace {

// y = x w^T, or x w.
void multiply(Context& ctx, const Tensor& y, const GemmOperand& x, const GemmOperand& w, bool transpose_w,
              const ConstTensor& bias, const char* op) {
  const Gemm gemm{.m = w.values.size(transpose_w ? 0 : 1),
                  .n = x.values.rows(),
                  .k = w.values.size(transpose_w ? 1 : 0),
                  .transpose_a = transpose_w,
                  .transpose_b = false,
                  .bias = static_cast<bool>(bias),
                  .f32_output = false,
                  .a_type = w.values.dtype,
                  .b_type = x.values.dtype};
  const auto scale = [](const GemmOperand& o) { return o.scaled() ? o.scale.as<float>() : nullptr; };
  run_gemm(ctx, gemm,
           {.a = w.values.data,
            .b = x.values.data,
            .bias = bias.data,
            .out = y.data,
            .a_scale = scale(w),
            .b_scale = scale(x)},
           op);
}

}  // namespace

void linear_forward(Context& ctx, Tensor y, GemmOperand x, GemmOperand w, ConstTensor bias) {
  multiply(ctx, y, x, w, true, bias, "linear_forward");
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor pre_gelu, GemmOperand x, GemmOperand w, ConstTensor bias,
                         Gelu kind, ScaledTensor y_fp8) {
  multiply(ctx, pre_gelu, x, w, true, {}, "linear_gelu_forward");
  gpu::gelu_forward(ctx, y, pre_gelu, bias, kind, y_fp8);
}

void linear_dgrad(Context& ctx, Tensor dx, GemmOperand dy, GemmOperand w) {
  multiply(ctx, dx, dy, w, w.scaled(), {}, "linear_dgrad");
}

void linear_gelu_dgrad(Context& ctx, Tensor dpre_gelu, Tensor dbias, GemmOperand dy, GemmOperand w,
                       ConstTensor pre_gelu, ConstTensor bias, Gelu kind, ScaledTensor dpre_gelu_fp8) {
  multiply(ctx, dpre_gelu, dy, w, w.scaled(), {}, "linear_gelu_dgrad");
  gpu::gelu_backward(ctx, dpre_gelu, dbias, dpre_gelu, pre_gelu, bias, kind, dpre_gelu_fp8);
}

void linear_wgrad(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  const Gemm gemm{.m = dw.size(1),
                  .n = dw.size(0),
                  .k = dy.rows(),
                  .transpose_a = false,
                  .transpose_b = true,
                  .bias = false,
                  .f32_output = true};
  run_gemm(ctx, gemm, {.a = x.data, .b = dy.data, .bias = nullptr, .out = dw.data}, "linear_wgrad");
}

}  // namespace scfa::gpu

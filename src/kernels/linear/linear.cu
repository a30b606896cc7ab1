#include "kernels/linear/linear.h"

#include "kernels/linear/products.h"

namespace scfa::gpu {

namespace {

// y = x w^T, or x w.
void multiply(Context& ctx, const Tensor& y, const ProductOperand& x, const ProductOperand& w, bool transpose_w,
              const ConstTensor& bias, const char* op) {
  const Product product{.m = w.values.size(transpose_w ? 0 : 1),
                        .n = x.values.rows(),
                        .k = w.values.size(transpose_w ? 1 : 0),
                        .transpose_a = transpose_w,
                        .transpose_b = false,
                        .bias = static_cast<bool>(bias),
                        .f32_output = false,
                        .a_type = w.values.dtype,
                        .b_type = x.values.dtype};
  const auto scale = [](const ProductOperand& o) { return o.scaled() ? o.scale.as<float>() : nullptr; };
  run_product(ctx, product,
              {.a = w.values.data,
               .b = x.values.data,
               .bias = bias.data,
               .out = y.data,
               .a_scale = scale(w),
               .b_scale = scale(x)},
              op);
}

}  // namespace

void linear_forward(Context& ctx, Tensor y, ProductOperand x, ProductOperand w, ConstTensor bias) {
  multiply(ctx, y, x, w, true, bias, "linear_forward");
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor product, ProductOperand x, ProductOperand w, ConstTensor bias,
                         Gelu kind, ScaledTensor y_fp8) {
  multiply(ctx, product, x, w, true, {}, "linear_gelu_forward");
  gpu::gelu_forward(ctx, y, product, bias, kind, y_fp8);
}

void linear_dgrad(Context& ctx, Tensor dx, ProductOperand dy, ProductOperand w) {
  multiply(ctx, dx, dy, w, w.scaled(), {}, "linear_dgrad");
}

void linear_gelu_dgrad(Context& ctx, Tensor dproduct, Tensor dbias, ProductOperand dy, ProductOperand w,
                       ConstTensor product, ConstTensor bias, Gelu kind, ScaledTensor dproduct_fp8) {
  multiply(ctx, dproduct, dy, w, w.scaled(), {}, "linear_gelu_dgrad");
  gpu::gelu_backward(ctx, dproduct, dbias, dproduct, product, bias, kind, dproduct_fp8);
}

void linear_wgrad(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  const Product product{.m = dw.size(1),
                        .n = dw.size(0),
                        .k = dy.rows(),
                        .transpose_a = false,
                        .transpose_b = true,
                        .bias = false,
                        .f32_output = true};
  run_product(ctx, product, {.a = x.data, .b = dy.data, .bias = nullptr, .out = dw.data}, "linear_wgrad");
}

}  // namespace scfa::gpu

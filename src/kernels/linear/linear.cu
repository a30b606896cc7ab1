#include "kernels/linear/linear.h"

#include "kernels/linear/products.h"

namespace scfa::gpu {

void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  const Product product{.m = w.size(0),
                        .n = x.rows(),
                        .k = w.size(1),
                        .transpose_a = true,
                        .transpose_b = false,
                        .bias = static_cast<bool>(bias),
                        .f32_output = false};
  run_product(ctx, product, w.data, x.data, bias.data, y.data, "linear_forward");
}

void linear_gelu_forward(Context& ctx, Tensor y, Tensor product, ConstTensor x, ConstTensor w, ConstTensor bias,
                         Gelu kind) {
  gpu::linear_forward(ctx, product, x, w, {});
  gpu::gelu_forward(ctx, y, product, bias, kind);
}

void linear_dgrad(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w) {
  const Product product{.m = w.size(1),
                        .n = dy.rows(),
                        .k = w.size(0),
                        .transpose_a = false,
                        .transpose_b = false,
                        .bias = false,
                        .f32_output = false};
  run_product(ctx, product, w.data, dy.data, nullptr, dx.data, "linear_dgrad");
}

void linear_gelu_dgrad(Context& ctx, Tensor dproduct, Tensor dbias, ConstTensor dy, ConstTensor w, ConstTensor product,
                       ConstTensor bias, Gelu kind) {
  gpu::linear_dgrad(ctx, dproduct, dy, w);
  gpu::gelu_backward(ctx, dproduct, dbias, dproduct, product, bias, kind);
}

void linear_wgrad(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  const Product product{.m = dw.size(1),
                        .n = dw.size(0),
                        .k = dy.rows(),
                        .transpose_a = false,
                        .transpose_b = true,
                        .bias = false,
                        .f32_output = true};
  run_product(ctx, product, x.data, dy.data, nullptr, dw.data, "linear_wgrad");
}

}  // namespace scfa::gpu

// GELU activation.        Hendrycks & Gimpel 2016, arXiv:1606.08415
#pragma once
#include "core/context.h"
#include "kernels/scaled_tensor.h"

namespace scfa {

enum class Gelu : uint8_t { kErf, kTanh };  // exact, and GPT-2's approximation

// y = gelu(x + bias), with gelu(x) = x * Phi(x), elementwise.
//   y, x  (N, C), contiguous, f32 on CPU, bf16 on GPU; leading dimensions are free      bias  in (C), like x, or empty
//   y_fp8  out e4m3, like y: y / y_fp8.scale, which is given (linear/fp8.h); or empty. C must be a multiple of 8 then
// On a GPU Phi is exact to a relative error of 4e-5, a fiftieth of the rounding to bf16.
void gelu_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor bias, Gelu kind, ScaledTensor y_fp8 = {});

// dx = dy * gelu'(x + bias), overwritten; dx may be dy.
//   dbias  out (C) f32, added to: the sum of the rows of dx; or empty
//   dx_fp8 out e5m2, like dx: dx / dx_fp8.scale, which is given; or empty. C must be a multiple of 8 then
// Deterministic.
void gelu_backward(Context& ctx, Tensor dx, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor bias, Gelu kind,
                   ScaledTensor dx_fp8 = {});

namespace cpu {
decltype(scfa::gelu_forward) gelu_forward;
decltype(scfa::gelu_backward) gelu_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::gelu_forward) gelu_forward;
decltype(scfa::gelu_backward) gelu_backward;
}  // namespace gpu
}  // namespace scfa

// GELU activation.        Hendrycks & Gimpel 2016, arXiv:1606.08415
#pragma once
#include "core/context.h"

namespace scfa {

enum class Gelu : uint8_t { kErf, kTanh };  // the exact form, and GPT-2's approximation

// y = x * Phi(x), elementwise. y, x: the same shape, contiguous, f32 on CPU, bf16 on GPU.
void gelu_forward(Context& ctx, Tensor y, ConstTensor x, Gelu kind);

// dx = dy * d(x Phi(x))/dx, overwritten; dx may alias dy.
void gelu_backward(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor x, Gelu kind);

namespace cpu {
decltype(scfa::gelu_forward) gelu_forward;
decltype(scfa::gelu_backward) gelu_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::gelu_forward) gelu_forward;
decltype(scfa::gelu_backward) gelu_backward;
}  // namespace gpu
}  // namespace scfa

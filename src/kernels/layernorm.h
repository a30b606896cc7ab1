// Residual addition and layer normalisation in one pass.        Ba et al. 2016, arXiv:1607.06450
#pragma once
#include "core/context.h"
#include "kernels/scaled_tensor.h"

namespace scfa {

// y = (r - mean(r)) * rstd(r) * w + b, with r = x + skip, over the last axis.
//   y           out (N, C)  f32 on CPU; bf16|f32 on GPU, row-major; leading dimensions are free
//   r           out (N, C)  the sum; may alias x; empty if skip is empty (then r is x)
//   mean, rstd  out (N)     f32, kept for backward
//   x, skip     in  (N, C)  dtype of y; skip may be empty       w, b  in (C), dtype of y; b may be empty
//   y_fp8       out (N, C)  e4m3, y / y_fp8.scale, which is given (linear/fp8.h); or empty. On a GPU y must be bf16
// Asynchronous on ctx.stream(); deterministic. GPU: C % 8 == 0, C <= 4096; tuned for 256 <= C <= 2048.
// Throws Error if shapes, dtypes or devices disagree, before anything is launched.
void layernorm_forward(Context& ctx, Tensor y, Tensor r, Tensor mean, Tensor rstd, ConstTensor x, ConstTensor skip,
                       ConstTensor w, ConstTensor b, float eps, ScaledTensor y_fp8 = {});

// dr = dr_in + gradient of the normalisation: the residual stream's gradient passes through unchanged.
//   dr      out (N, C), overwritten      dr_in  in (N, C), may alias dr; empty: zero
//   dw, db  out (C) f32, added to; db may be empty
//   dr_sum  out (C) f32, added to, or empty: the sum of the rows of dr, which is the gradient of a bias in x or skip
//   dy, r   in  (N, C)                   w  in (C)          mean, rstd  in (N) f32, from forward
//   scratch f32, at least layernorm_backward_scratch(ctx, N, C) elements, contents undefined; empty if that is 0
// Deterministic.
void layernorm_backward(Context& ctx, Tensor dr, Tensor dw, Tensor db, Tensor dr_sum, ConstTensor dr_in, ConstTensor dy,
                        ConstTensor r, ConstTensor w, ConstTensor mean, ConstTensor rstd, Tensor scratch);

int64_t layernorm_backward_scratch(const Context& ctx, int64_t N, int64_t C);

namespace cpu {
decltype(scfa::layernorm_forward) layernorm_forward;
decltype(scfa::layernorm_backward) layernorm_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::layernorm_forward) layernorm_forward;
decltype(scfa::layernorm_backward) layernorm_backward;
}  // namespace gpu
}  // namespace scfa

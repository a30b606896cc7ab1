// Linear layers: y = x W^T + b and its gradients. The CPU form is BLAS.
#pragma once
#include "core/context.h"

namespace scfa {

//   y     out (N, M)  f32 on CPU; bf16 on GPU, row-major. Leading dimensions of x and y are free: (B, T, K) is read
//                     as (B*T, K)
//   x     in  (N, K)      w  in (M, K), one row an output        bias  in (M) or empty
// Asynchronous on ctx.stream(); deterministic for a fixed number of threads. Throws Error on shapes that disagree.
void matmul_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias);

//   dx     out (N, K), overwritten, or empty
//   dw     out (M, K) f32, added to, or empty       dbias  out (M) f32, added to, or empty
//   dy     in  (N, M)      x  in (N, K)             w      in (M, K)
void matmul_backward(Context& ctx, Tensor dx, Tensor dw, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor w);

namespace cpu {
decltype(scfa::matmul_forward) matmul_forward;
decltype(scfa::matmul_backward) matmul_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::matmul_forward) matmul_forward;
decltype(scfa::matmul_backward) matmul_backward;
}  // namespace gpu
}  // namespace scfa

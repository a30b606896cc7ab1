// Linear layers y = x W^T + b, alone or followed by GELU, and their gradients, each an op of its own. GEMMs are BLAS
// on the CPU and cuBLASLt on a GPU (gemm.h).
//
//   x   (N, K)  f32 on CPU; bf16 on GPU, row-major. Leading dimensions are free: (B, T, K) is read as (B*T, K)
//   y   (N, M)  like x       w  (M, K), one row per output     bias  (M), like x, or empty
//
// Instead of x or dy and w, GEMMs take both scaled to 8 bits (fp8.h): x and w in e4m3, dy in e5m2. Outputs have
// the types they have without. On a GPU all sizes must be multiples of 16 then, sums have 14 bits of mantissa, and the
// compute capability must be at least 8.9.
//
// All are asynchronous on ctx.stream(), deterministic for a fixed number of threads, and throw Error on shapes, types
// or devices that disagree before anything is launched.
#pragma once
#include "core/context.h"
#include "kernels/linear/gelu.h"
#include "kernels/scaled_tensor.h"

namespace scfa {

// y is overwritten.
void linear_forward(Context& ctx, Tensor y, GemmOperand x, GemmOperand w, ConstTensor bias);

// pre_gelu = x W^T and y = gelu(pre_gelu + b), both (N, M) and overwritten; y is that of the stored pre_gelu. The bias
// is added where GELU is computed, because GEMMs without one are faster. y_fp8: as gelu_forward's.
void linear_gelu_forward(Context& ctx, Tensor y, Tensor pre_gelu, GemmOperand x, GemmOperand w, ConstTensor bias,
                         Gelu kind, ScaledTensor y_fp8 = {});

// The gradient of the input: dx = dy W, (N, K), overwritten. In 8 bits w is the transposed weight, (K, M).
void linear_dgrad(Context& ctx, Tensor dx, GemmOperand dy, GemmOperand w);

// The same where x is gelu(pre_gelu + bias) of the layer before, whose output's gradient this is: dpre_gelu = (dy W) *
// gelu'(pre_gelu + bias), (N, K), overwritten, and dbias (K) f32 += the sum of its rows. bias and dbias may be empty.
// dpre_gelu_fp8: as gelu_backward's dx_fp8.
void linear_gelu_dgrad(Context& ctx, Tensor dpre_gelu, Tensor dbias, GemmOperand dy, GemmOperand w,
                       ConstTensor pre_gelu, ConstTensor bias, Gelu kind, ScaledTensor dpre_gelu_fp8 = {});

// The gradient of the weight: dw (M, K) f32 += dy^T x.
void linear_wgrad(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x);

// The gradient of the bias: dbias (M) f32 += the sum of the rows of dy.
void linear_bgrad(Context& ctx, Tensor dbias, ConstTensor dy);

namespace cpu {
decltype(scfa::linear_forward) linear_forward;
decltype(scfa::linear_gelu_forward) linear_gelu_forward;
decltype(scfa::linear_dgrad) linear_dgrad;
decltype(scfa::linear_gelu_dgrad) linear_gelu_dgrad;
decltype(scfa::linear_wgrad) linear_wgrad;
decltype(scfa::linear_bgrad) linear_bgrad;
}  // namespace cpu
namespace gpu {
decltype(scfa::linear_forward) linear_forward;
decltype(scfa::linear_gelu_forward) linear_gelu_forward;
decltype(scfa::linear_dgrad) linear_dgrad;
decltype(scfa::linear_gelu_dgrad) linear_gelu_dgrad;
decltype(scfa::linear_wgrad) linear_wgrad;
decltype(scfa::linear_bgrad) linear_bgrad;
}  // namespace gpu
}  // namespace scfa

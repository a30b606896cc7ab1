// Operands of GEMMs in 8-bit floating point (kernels/scaled_tensor.h), and scales for those that other ops write.
//
// No scale needs a history: it comes from the tensor's largest element, or from a bound that the weights imply. So a
// step depends on weights and data alone, and there is no state to keep. Only rounding can exceed a bound, and such
// values saturate. Bounds may be far above the largest value: e4m3 has full precision over 15 powers of two, e5m2 over
// 30.
//
// All ops are asynchronous on ctx.stream(), deterministic, and throw Error on shapes, types or devices that disagree.
#pragma once
#include "core/context.h"
#include "kernels/scaled_tensor.h"

namespace scfa {

// y = x with the least scale that holds its largest element; sets y.scale too.
//   x           in (N, K), contiguous, f32 on CPU, bf16 on GPU; leading dimensions are free; N and K multiples of 16
//   y           out, of x's shape
//   transposed  out (K, N): the same elements in e4m3 or e5m2 like y; or empty
void quantise(Context& ctx, ScaledTensor y, Tensor transposed, ConstTensor x);

// A scale in e4m3 for the output of layer norm over rows of C, which is at most sqrt(C) max |w| + max |b|.
//   scale  out (1) f32        w, b  in (C), f32 on CPU, bf16 on GPU; b may be empty
void layernorm_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor b);

// A scale in e4m3 for the GEMM with w of a layer norm's output, and so for GELU of it, by the Cauchy-Schwarz
// inequality: an element is at most sqrt(C) |w_j * norm_w| + |w_j . norm_b + bias_j|.
//   scale  out (1) f32        w  in (M, C)        norm_w, norm_b  in (C)        bias  in (M)
// norm_b and bias may be empty.
void gelu_output_scale(Context& ctx, Tensor scale, ConstTensor w, ConstTensor norm_w, ConstTensor norm_b,
                       ConstTensor bias);

// A scale in e5m2 for dy W times the derivative of GELU, which is at most 1.13: elements of the GEMM are at most M
// times the largest of dy times that of w.
//   scale  out (1) f32        dy_scale (e5m2), w_scale (e4m3)  in (1) f32        M  outputs of the layer
void gelu_gradient_scale(Context& ctx, Tensor scale, ConstTensor dy_scale, ConstTensor w_scale, int64_t M);

// Their arithmetic, the same on host and device.
SCFA_HOST_DEVICE inline float layernorm_output_bound(int64_t C, float largest_w, float largest_b) {
  return fmaf(sqrtf(static_cast<float>(C)), largest_w, largest_b);
}
SCFA_HOST_DEVICE inline float gelu_gradient_scale_of(float dy_scale, float w_scale, int64_t M) {
  constexpr float kSteepest = 1.13f;  // the largest derivative of GELU, exact or approximated
  const float dy = dy_scale * largest_fp8(DType::kE5M2), w = w_scale * largest_fp8(DType::kE4M3);
  return fp8_scale(kSteepest * static_cast<float>(M) * dy * w, DType::kE5M2);
}

namespace cpu {
decltype(scfa::quantise) quantise;
decltype(scfa::layernorm_output_scale) layernorm_output_scale;
decltype(scfa::gelu_output_scale) gelu_output_scale;
decltype(scfa::gelu_gradient_scale) gelu_gradient_scale;
}  // namespace cpu
namespace gpu {
decltype(scfa::quantise) quantise;
decltype(scfa::layernorm_output_scale) layernorm_output_scale;
decltype(scfa::gelu_output_scale) gelu_output_scale;
decltype(scfa::gelu_gradient_scale) gelu_gradient_scale;
}  // namespace gpu
}  // namespace scfa

// GELU of one element and its derivative, for kernels.
#pragma once
#include "kernels/fragment_math.cuh"
#include "kernels/linear/gelu.h"

namespace scfa::gpu {

__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of the normal distribution at -|x|: exp(-x^2 / 2), and the cdf divided by it. The latter is a polynomial in
// 1 / (1 + p |x|), the form of Abramowitz and Stegun 7.1.26, with coefficients for the least maximum of the relative
// error (|x| <= 14): 4e-5, a fiftieth of the rounding to bf16. Value and derivative of GELU share the exponential.
struct GaussianTail {
  float exponential, ratio;
};
__device__ inline GaussianTail gaussian_tail(float x) {
  constexpr float kHalfLog2E = 0.72134752f, kP = 0.38f;
  constexpr float kC[5] = {0.15122545f, 0.15782696f, 0.09198701f, 0.18886748f, -0.08992435f};
  const float e = exp2_fast(__fmul_rn(__fmul_rn(-kHalfLog2E, x), x)), t = reciprocal_fast(fmaf(kP, fabsf(x), 1.0f));
  float sum = kC[4];
#pragma unroll
  for (int i = 3; i >= 0; --i) sum = fmaf(sum, t, kC[i]);
  return {e, __fmul_rn(t, sum)};
}

// 1 / (1 + exp(-2 u)), with tanh u = 2 of it - 1, where u is what GPT-2's approximation takes the tanh of.
__device__ inline float gelu_sigmoid(float x) {
  constexpr float kMinusTwoLog2E = -2.88539008f, kSqrt2OverPi = 0.79788456f, kCubic = 0.044715f;
  const float u = __fmul_rn(kSqrt2OverPi, fmaf(__fmul_rn(__fmul_rn(kCubic, x), x), x, x));
  return reciprocal_fast(__fadd_rn(1.0f, exp2_fast(__fmul_rn(kMinusTwoLog2E, u))));
}

// Which operations are fused is written out, so that the bits do not depend on the code around them.
template <Gelu kKind>
__device__ inline float gelu(float x) {
  if constexpr (kKind == Gelu::kTanh) return __fmul_rn(x, gelu_sigmoid(x));
  const GaussianTail tail = gaussian_tail(x);  // x cdf(x) = max(x, 0) - |x| cdf(-|x|)
  return fmaf(-fabsf(x), __fmul_rn(tail.exponential, tail.ratio), fmaxf(x, 0.0f));
}

template <Gelu kKind>
__device__ inline float gelu_derivative(float x) {
  if constexpr (kKind == Gelu::kTanh) {
    constexpr float kTwoSqrt2OverPi = 1.59576912f, kThreeCubic = 0.134145f;
    const float s = gelu_sigmoid(x);
    const float inner = __fmul_rn(kTwoSqrt2OverPi, fmaf(__fmul_rn(kThreeCubic, x), x, 1.0f));
    return fmaf(__fmul_rn(__fmul_rn(x, s), __fsub_rn(1.0f, s)), inner, s);
  }
  constexpr float kInvSqrt2Pi = 0.39894228f;  // cdf(x) + x pdf(x); at -|x|, or one minus it
  const GaussianTail tail = gaussian_tail(x);
  const float left = __fmul_rn(tail.exponential, fmaf(-kInvSqrt2Pi, fabsf(x), tail.ratio));
  return x < 0.0f ? left : __fsub_rn(1.0f, left);
}

}  // namespace scfa::gpu

// Arithmetic on the registers of matrix instructions: conversion to bf16 pairs and back, exp2, and reductions over the
// four lanes (a quad) that share a row of an accumulator.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace scfa::gpu {

__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ inline float low_half(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000u);
}
// Sums of two and of eight pairs of bf16, a + weight * b, in f32.
__device__ inline uint32_t add_bf16(uint32_t a, uint32_t b, float weight = 1.0f) {
  return pack_bf16(low_half(a) + weight * low_half(b), high_half(a) + weight * high_half(b));
}
__device__ inline uint4 add_bf16(const uint4& a, const uint4& b, float weight = 1.0f) {
  return {add_bf16(a.x, b.x, weight), add_bf16(a.y, b.y, weight), add_bf16(a.z, b.z, weight),
          add_bf16(a.w, b.w, weight)};
}

// Columns 16 k to 16 k + 15 of an accumulator, rounded to bf16, as the A fragment of the next GEMM.
template <int kN>
__device__ inline void accumulator_to_a_fragment(uint32_t (&a)[4], const float (&d)[kN], int k) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_bf16(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

}  // namespace scfa::gpu

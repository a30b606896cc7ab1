// Packs of elements from f32 registers to 8-bit floating point.
#pragma once
#include <cuda_fp8.h>

#include "kernels/device_math.cuh"
#include "kernels/scaled_tensor.h"

namespace scfa::gpu {

// v * inverse_scale, the first element in the lowest byte.
template <DType kType>
__device__ inline uint2 pack_fp8(const float (&v)[kPack], float inverse_scale) {
  static_assert(kType == DType::kE4M3 || kType == DType::kE5M2);
  constexpr __nv_fp8_interpretation_t kFormat = kType == DType::kE4M3 ? __NV_E4M3 : __NV_E5M2;
  unsigned pairs[kPack / 2];
#pragma unroll
  for (int i = 0; i < kPack / 2; ++i)
    pairs[i] = __nv_cvt_float2_to_fp8x2(make_float2(v[2 * i] * inverse_scale, v[2 * i + 1] * inverse_scale),
                                        __NV_SATFINITE, kFormat);
  return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

// What the bf16 elements of a pack are stored as: the 8-bit copy of a tensor is that of its rounded elements.
__device__ inline void round_to_bf16(float (&v)[kPack]) {
  unpack(v, pack(v));
}

}  // namespace scfa::gpu

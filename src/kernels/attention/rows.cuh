// Access to (B, T, H, D) bf16 tensors in packs of 16 bytes, for the memory-bound kernels around attention.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "core/tensor.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

// Pointer and strides (in elements) of a (B, T, H, D) tensor, D contiguous, as a kernel parameter.
struct RowsOf {
  __nv_bfloat16* data;
  int64_t batch_stride, row_stride, head_stride;
  explicit RowsOf(const ConstTensor& t)
      : data(static_cast<__nv_bfloat16*>(const_cast<void*>(t.data))),
        batch_stride(t.stride[0]),
        row_stride(t.stride[1]),
        head_stride(t.stride[2]) {}
  __device__ __nv_bfloat16* row(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch_stride + t * row_stride + h * head_stride;
  }
};

// Throws Error unless the tensor is bf16, D a multiple of kPack up to 128, and every row aligned to 16 bytes.
inline void require_packs(const char* op, const char* name, const ConstTensor& t) {
  bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.size(-1) % kPack == 0;
  for (size_t i = 0; i + 1 < static_cast<size_t>(t.ndim); ++i)
    aligned = aligned && (t.shape[i] == 1 || t.stride[i] % kPack == 0);
  require(t.dtype == DType::kBF16 && aligned && t.size(-1) <= 128, op, ": on the GPU ", name,
          " must be bf16 with a head dim of a multiple of 8 up to 128 and rows aligned to 16 bytes, not ",
          t.describe());
}

}  // namespace scfa::gpu

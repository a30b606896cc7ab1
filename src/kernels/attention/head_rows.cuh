// Rows of heads in global memory, as kernels are given them: bf16, in packs of 16 bytes.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "core/tensor.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

// The rows of one head; the stride in elements.
struct HeadView {
  __nv_bfloat16* data;
  int64_t row_stride;
};

// The rows of all heads of a (B, T, H, D) tensor, D contiguous. Keys and values may have fewer heads than queries: each
// head is read by `group` consecutive query heads.
struct HeadRows {
  __nv_bfloat16* data;
  int64_t batch_stride, row_stride, head_stride;
  uint32_t inverse_group;  // 2^31 / group, rounded up
  __device__ __nv_bfloat16* row(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch_stride + t * row_stride + h * head_stride;
  }
  // head: b * H + h
  __device__ HeadView head(int head, int H) const {
    return {data + head / H * batch_stride + head % H * head_stride, row_stride};
  }
  // The head of keys or values that query head h (below H) reads: h / group. Exact for h * group below 2^31.
  __device__ int head_of(int h) const { return static_cast<int>(static_cast<uint64_t>(h) * inverse_group >> 31); }
  __device__ HeadView kv_head(int head, int H) const {
    return {data + head / H * batch_stride + head_of(head % H) * head_stride, row_stride};
  }
};

// Loads the first D elements of a row; the other elements of `row` are unchanged.
template <int kD>
__device__ inline void load_row(float (&row)[kD], const __nv_bfloat16* from, int D) {
#pragma unroll
  for (int d = 0; d < kD; d += kPack)
    if (d < D) {
      float pack[kPack];
      load(pack, from + d);
#pragma unroll
      for (int i = 0; i < kPack; ++i) row[d + i] = pack[i];
    }
}

inline HeadRows head_rows(const ConstTensor& t, int group = 1) {
  const auto inverse =
      static_cast<uint32_t>(((1u << 31) + static_cast<uint32_t>(group) - 1) / static_cast<uint32_t>(group));
  return {static_cast<__nv_bfloat16*>(const_cast<void*>(t.data)), t.stride[0], t.stride[1], t.stride[2], inverse};
}

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

// Small pieces that several kernels use: packs of elements between memory and f32 registers, sums over a warp or a
// block.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace scfa::gpu {

constexpr int kPack = 8;  // elements a thread moves at once: 16 bytes of bf16

__device__ inline void load(float (&v)[kPack], const float* p) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void unpack(float (&v)[kPack], const uint4& raw) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // a bf16 is the high half of an f32
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
}
__device__ inline void load(float (&v)[kPack], const __nv_bfloat16* p) {
  unpack(v, *reinterpret_cast<const uint4*>(p));
}
__device__ inline void store(float* p, const float (&v)[kPack]) {
  reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ inline uint4 pack(const float (&v)[kPack]) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  return *reinterpret_cast<const uint4*>(pairs);
}
__device__ inline void store(__nv_bfloat16* p, const float (&v)[kPack]) {
  __stwb(reinterpret_cast<uint4*>(p), pack(v));  // of a plain assignment the compiler may make four stores
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline void assign(float& to, float x) {
  to = x;
}
__device__ inline void assign(__nv_bfloat16& to, float x) {
  to = __float2bfloat16_rn(x);
}

template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, offset));
  return x;
}

// Over all threads of a block of a multiple of 32; every thread gets the result. Its order is fixed.
template <class T, class Combine>
__device__ inline T block_reduce(T x, T neutral, const Combine& combine) {
  __shared__ T of_warp[32];
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xFFFFFFFFu, x, offset));
  __syncthreads();  // the last use is over
  if (lane == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  x = lane < warps ? of_warp[lane] : neutral;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xFFFFFFFFu, x, offset));
  return x;
}
template <class T>
__device__ inline T block_sum(T x) {
  return block_reduce(x, T{}, [](T a, T b) { return a + b; });
}
__device__ inline float block_max(float x) {
  return block_reduce(x, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
}

// The number of blocks for one thread per item.
inline unsigned blocks_for(int64_t items, int threads) {
  return static_cast<unsigned>((items + threads - 1) / threads);
}

}  // namespace scfa::gpu

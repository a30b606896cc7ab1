// Tiles of bf16 rows in shared memory, asynchronous copies to them (cp.async), and loads and stores of 16 bytes of
// global memory. For sm_80 and newer.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace scfa::gpu {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- asynchronous copies --------------------------------------------------------------------------------------------
// cp.async (CUTLASS: cp_async_zfill, cp_async_fence, cp_async_wait) of kBytes (4 or 8 through L1, 16 past it) from
// global to shared memory. Where !valid, zeros are written and `from` is not read.
template <int kBytes>
__device__ inline void copy_async(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes), "r"(bytes)
                 : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until all but the newest kGroups groups of this thread's copies are complete.
template <int kGroups>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// ---- global memory --------------------------------------------------------------------------------------------------
// Stores 16 bytes in one instruction (the compiler would make four of an assignment), evict-first in the L2 cache.
__device__ inline void store_global(void* to, const uint4& v) {
  asm volatile("st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// Loads 16 bytes that another block may just have written, from the L2 cache: L1 may hold an older copy of the line.
__device__ inline uint4 load_coherent(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
// kRows rows of kD bf16. Layout: panels of 64 columns (128 bytes per row), one panel behind the other; within a panel
// the 128-byte swizzle of wgmma and TMA: chunk c (16 bytes) of row r lies at chunk c ^ (r & 7). So eight rows of one
// chunk lie in eight different groups of banks.
template <int kRows, int kD>
struct Tile {
  static constexpr int kBytes = kRows * kD * 2;
  static constexpr int kChunks = kD / 8;  // per row
  __device__ static uint32_t at(uint32_t tile, int row, int chunk) {
    return tile + (chunk >> 3) * (kRows * 128) + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
  }
  // From the address of chunk 0 or 1 of a row, the address `rows` rows further down (a multiple of 8) and `chunks`
  // chunks further right (even). This is one xor with a constant; at() would need a register per chunk.
  __device__ static uint32_t step(uint32_t address, int rows, int chunks) {
    return (address ^ ((chunks & 7) << 4)) + (chunks >> 3) * (kRows * 128) + rows * 128;
  }
};

}  // namespace scfa::gpu

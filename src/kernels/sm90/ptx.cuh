// PTX instructions that CUDA C++ has no name for, and what keeps the compiler from moving or caching values. For the
// sm_90 kernels. Addresses are of shared memory.
#pragma once
#include <cstdint>

// Code for sm_90a exactly; kernels are empty in any other compilation.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SCFA_SM90A
#endif

namespace scfa::gpu {

constexpr int kWarpgroupSize = 128;  // threads

// A value that is the same in all threads of a warp, in a way that the compiler sees: matrix descriptors and branches
// around matrix instructions then live in uniform registers.
__device__ inline int warp_uniform(int x) {
  return __shfl_sync(0xFFFFFFFFu, x, 0);
}

// Returns x, but the compiler cannot know that. What depends on the result is therefore computed at this point and not
// kept in registers from before.
__device__ inline int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// ---- shared memory --------------------------------------------------------------------------------------------------
__device__ inline int load_int(uint32_t address) {
  int v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
__device__ inline float2 load_float2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}
__device__ inline uint4 load_chunk(uint32_t address) {  // 16 bytes
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ inline void store_int(uint32_t address, int v) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ inline void store_chunk(uint32_t address, const uint4& v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// The same for four numbers that lie side by side.
__device__ inline int4 load_int4(uint32_t address) {
  const uint4 v = load_chunk(address);
  return reinterpret_cast<const int4&>(v);
}
__device__ inline void store_int4(uint32_t address, int x, int y, int z, int w) {
  store_chunk(address, make_uint4(static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z),
                                  static_cast<uint32_t>(w)));
}

// stmatrix.x4: stores an A fragment (16 x 16). Lanes 8 i to 8 i + 7 give the addresses of the rows of the 8 x 8 matrix
// i. With the address of row lane % 16, chunk lane / 16, the tile then holds the columns that accumulator_to_a_fragment
// packed.
__device__ inline void stmatrix(uint32_t row_address, const uint32_t (&a)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address), "r"(a[0]),
               "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

// Makes what copies and ordinary stores wrote before visible to wgmma after it (the async proxy).
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- global memory: semaphores --------------------------------------------------------------------------------------
[[maybe_unused]] __device__ inline unsigned load_relaxed(const unsigned* at) {
  unsigned x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}
[[maybe_unused]] __device__ inline void store_relaxed(unsigned* at, unsigned x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
[[maybe_unused]] __device__ inline void store_release(unsigned* at, unsigned x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(x) : "memory");
}
// A release of four words side by side, at gpu scope and cumulative: what other threads wrote before they synchronised
// with this one is released too.
[[maybe_unused]] __device__ inline void store_release_x4(unsigned* at, unsigned x) {
  asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.v4.u32 [%0], {%1, %1, %1, %1};" ::"l"(at), "r"(x) : "memory");
}
[[maybe_unused]] __device__ inline unsigned compare_and_swap_relaxed(unsigned* at, unsigned expected, unsigned to) {
  unsigned before;
  asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
               : "=r"(before)
               : "l"(at), "r"(expected), "r"(to)
               : "memory");
  return before;
}

// ---- warpgroups -----------------------------------------------------------------------------------------------------
// Named barriers. Barrier 0 is __syncthreads.
enum NamedBarrier : int { kProducerBarrier = 1, kConsumerBarrier0 = 2 };  // consumer warpgroup i: kConsumerBarrier0 + i

// Waits at a named barrier until all threads of a warpgroup have arrived.
__device__ inline void named_barrier_sync(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(kWarpgroupSize) : "memory");
}

// setmaxnreg (CUTLASS: warpgroup_reg_dealloc, warpgroup_reg_alloc). How many registers a thread of this warpgroup may
// use from here on, a multiple of 8: fewer than before, or more.
template <int kRegisters>
__device__ inline void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace scfa::gpu

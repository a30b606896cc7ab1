// GEMMs of tiles by the warpgroup-level matrix instruction of sm_90a (wgmma, bf16, accumulated in f32). See PTX ISA
// 8.0, "Asynchronous Warpgroup Level Matrix Instructions". Tiles are those of tile.cuh; their base address is a
// multiple of 1024 bytes, and a part of a tile may start at any multiple of 8 rows.
#pragma once
#include "kernels/fragment_math.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu {

// ---- operands in shared memory --------------------------------------------------------------------------------------
// Matrix descriptors, 64 bits: start address, leading dimension byte offset (between panels of an MN-major operand
// wider than 64; else ignored), stride dimension byte offset (1024, between groups of eight rows), each in units of 16
// bytes; 128-byte swizzle. The upper half is always the same, so only the lower one is passed, and offsets added to it.
constexpr uint32_t kDescriptorHigh = 1024 >> 4 | 1u << 30;

__device__ inline uint32_t tile_descriptor(uint32_t address, uint32_t panel_bytes) {
  return (address & 0x3FFFF) >> 4 | panel_bytes >> 4 << 16;
}

// An operand of kRows rows of kD columns whose rows are those of the GEMM (K-major: sums run along a row).
__device__ inline uint32_t k_major_descriptor(uint32_t tile) {
  return tile_descriptor(tile, 16);
}
// At the 16 columns from 16 k on.
template <int kRows>
__device__ inline uint32_t k_major_at(uint32_t operand, int k) {
  return operand + (k / 4 * (kRows * 128) + k % 4 * 32) / 16;
}
// The same tile with its columns as those of the GEMM (MN-major: sums run down a column).
template <int kRows>
__device__ inline uint32_t mn_major_descriptor(uint32_t tile) {
  return tile_descriptor(tile, kRows * 128);
}
// At the 16 rows from 16 k on.
__device__ inline uint32_t mn_major_at(uint32_t operand, int k) {
  return operand + k * (16 * 128) / 16;
}

// ---- the instruction ------------------------------------------------------------------------------------------------
// d (64, N) = a (64, 16) b (16, N) [+ d], by the four warps of a warpgroup. Element d[4 j + i] of a thread: row
// 16 warp + lane/4 + 8 (i/2), column 8 j + 2 (lane%4) + i%2. a comes from shared memory (ss) or from registers (rs), as
// accumulator_to_a_fragment packs it. rs exists only for N = 64 and 128, the padded head dims. Asynchronous: between
// warpgroup_arrive() and warpgroup_wait() nothing may read or write d or a.
#define SCFA_ACC8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define SCFA_ACC24(d) SCFA_ACC8(d, 0), SCFA_ACC8(d, 8), SCFA_ACC8(d, 16)
#define SCFA_ACC32(d) SCFA_ACC24(d), SCFA_ACC8(d, 24)
#define SCFA_ACC48(d) SCFA_ACC32(d), SCFA_ACC8(d, 32), SCFA_ACC8(d, 40)
#define SCFA_ACC64(d) SCFA_ACC48(d), SCFA_ACC8(d, 48), SCFA_ACC8(d, 56)
#define SCFA_NAMES24 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23"
#define SCFA_NAMES32 SCFA_NAMES24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SCFA_NAMES48 SCFA_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SCFA_NAMES64 SCFA_NAMES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// n: width. half: n / 2, the number of accumulators. i0, i1 ...: half, half + 1 ..., the asm operands that follow them.
#define SCFA_WGMMA_SS(n, half, i0, i1, i2, i3, i4, i5)                                                     \
  template <bool kTransA, bool kTransB>                                                                    \
  __device__ static void ss(float(&d)[half], uint32_t a, uint32_t b, bool add) {                           \
    asm volatile("{\n.reg .pred p;\n.reg .b64 a, b;\nsetp.ne.b32 p, %" #i2                                 \
                 ", 0;\n"                                                                                  \
                 "mov.b64 a, {%" #i0 ", %" #i5 "};\nmov.b64 b, {%" #i1 ", %" #i5                           \
                 "};\n"                                                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" SCFA_NAMES##half             \
                 "}, a, b, p, 1, 1, %" #i3 ", %" #i4 ";\n}"                                                \
                 : SCFA_ACC##half(d)                                                                       \
                 : "r"(a), "r"(b), "r"(static_cast<int>(add)), "n"(kTransA ? 1 : 0), "n"(kTransB ? 1 : 0), \
                   "n"(kDescriptorHigh));                                                                  \
  }
#define SCFA_WGMMA_RS(n, half, i0, i1, i2, i3, i4, i5, i6, i7)                                              \
  template <bool kTransB>                                                                                   \
  __device__ static void rs(float(&d)[half], const uint32_t(&a)[4], uint32_t b, bool add) {                 \
    asm volatile("{\n.reg .pred p;\n.reg .b64 b;\nsetp.ne.b32 p, %" #i5 ", 0;\nmov.b64 b, {%" #i4 ", %" #i7 \
                 "};\n"                                                                                     \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" SCFA_NAMES##half              \
                 "}, {%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, b, p, 1, 1, %" #i6 ";\n}"                    \
                 : SCFA_ACC##half(d)                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(static_cast<int>(add)),          \
                   "n"(kTransB ? 1 : 0), "n"(kDescriptorHigh));                                             \
  }

template <int kN>
struct Wgmma;
template <>
struct Wgmma<48> {
  SCFA_WGMMA_SS(48, 24, 24, 25, 26, 27, 28, 29)
};
template <>
struct Wgmma<64> {
  SCFA_WGMMA_SS(64, 32, 32, 33, 34, 35, 36, 37)
  SCFA_WGMMA_RS(64, 32, 32, 33, 34, 35, 36, 37, 38, 39)
};
template <>
struct Wgmma<96> {
  SCFA_WGMMA_SS(96, 48, 48, 49, 50, 51, 52, 53)
};
template <>
struct Wgmma<128> {
  SCFA_WGMMA_SS(128, 64, 64, 65, 66, 67, 68, 69)
  SCFA_WGMMA_RS(128, 64, 64, 65, 66, 67, 68, 69, 70, 71)
};

#undef SCFA_WGMMA_RS
#undef SCFA_WGMMA_SS
#undef SCFA_NAMES64
#undef SCFA_NAMES48
#undef SCFA_NAMES32
#undef SCFA_NAMES24
#undef SCFA_ACC64
#undef SCFA_ACC48
#undef SCFA_ACC32
#undef SCFA_ACC24
#undef SCFA_ACC8

// wgmma.fence. Before the first wgmma of a batch and after any ordinary write to its registers.
__device__ inline void warpgroup_arrive() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// The wgmmas since the last commit become one group.
__device__ inline void warpgroup_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the newest kGroups groups are done.
template <int kGroups>
__device__ inline void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Keeps the compiler from moving reads or writes of these registers across this point. No instruction is emitted.
template <int kN>
__device__ inline void warpgroup_fence_operand(float (&d)[kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kN>
__device__ inline void warpgroup_fence_operand(uint32_t (&d)[kN][4]) {
#pragma unroll
  for (int i = 0; i < kN; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(d[i][j])::"memory");
}

// ---- GEMMs of tiles ----------------------------------------------------------------------------------------------
// The functions below only issue wgmmas, which are complete after warpgroup_commit() and warpgroup_wait().
// d (64, kN) = a' b'^T: a' is rows `first` to first + 63 of a (kRowsA, kD), b' the first kN rows of b (kRowsB, kD).
// Both operands come from shared memory, K-major.
template <int kN, int kRowsA, int kRowsB, int kD>
__device__ inline void gemm_ss(float (&d)[kN / 2], uint32_t a, int first, uint32_t b) {
  const uint32_t from_a = k_major_descriptor(a + first * 128), from_b = k_major_descriptor(b);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k)
    Wgmma<kN>::template ss<false, false>(d, k_major_at<kRowsA>(from_a, k), k_major_at<kRowsB>(from_b, k), k > 0);
}
// d (64, kD) = a b' [+ d]: a (64, kK) comes from registers, b' is the first kK rows of b (kRowsB, kD), MN-major.
template <int kK, int kRowsB, int kD>
__device__ inline void gemm_rs(float (&d)[kD / 2], const uint32_t (&a)[kK / 16][4], uint32_t b, bool add) {
  const uint32_t from = mn_major_descriptor<kRowsB>(b);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) Wgmma<kD>::template rs<true>(d, a[k], mn_major_at(from, k), add || k > 0);
}
// d (64, kD) = a^T b: a is a panel of kK rows and 64 columns, b is (kK, kD). Both come from shared memory, MN-major.
template <int kK, int kD>
__device__ inline void gemm_ss_tn(float (&d)[kD / 2], uint32_t panel, uint32_t b) {
  const uint32_t from_a = mn_major_descriptor<kK>(panel), from_b = mn_major_descriptor<kK>(b);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k)
    Wgmma<kD>::template ss<true, true>(d, mn_major_at(from_a, k), mn_major_at(from_b, k), k > 0);
}

}  // namespace scfa::gpu

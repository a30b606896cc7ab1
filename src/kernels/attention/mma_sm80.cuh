// Building blocks of the portable attention kernels: the warp-level bf16 matrix instruction of sm_80 and newer, copies
// to shared memory that run beside it, and the swizzled tiles both use.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace scfa::gpu {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- asynchronous copies --------------------------------------------------------------------------------------------
// kBytes (8, or 16 past L1) from global to shared memory; zeros where !valid, and src is not read then.
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
// Until all but the newest kGroups groups of this thread have arrived.
template <int kGroups>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// 16 bytes at once (of a plain assignment the compiler makes four stores), the first to leave the L2 cache.
__device__ inline void store_global(void* to, const uint4& v) {
  asm volatile("st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// Of what another block may just have written: from the L2 cache, past L1, where a line of the neighbouring row's may
// still be as it was before.
__device__ inline uint4 load_coherent(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
// kRows rows of kD bf16 in panels of 64 columns, 128 bytes a row. A 16-byte chunk lies where its number, xor the row's
// low bits, says: eight rows of one column meet eight different groups of banks.
template <int kRows, int kD>
struct Tile {
  static constexpr int kBytes = kRows * kD * 2;
  static constexpr int kChunks = kD / 8;  // a row
  __device__ static uint32_t at(uint32_t tile, int row, int chunk) {
    return tile + (chunk >> 3) * (kRows * 128) + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
  }
  // The address `rows` rows and `chunks` chunks on from that of an even chunk below 2 or the one behind it; rows a
  // multiple of 8, chunks even. One xor where at() would need registers for every chunk.
  __device__ static uint32_t step(uint32_t address, int rows, int chunks) {
    return (address ^ ((chunks & 7) << 4)) + (chunks >> 3) * (kRows * 128) + rows * 128;
  }
};

// ---- matrix instruction ---------------------------------------------------------------------------------------------
// mma.sync.m16n8k16 and its operands. Accumulator d[i] of lane l: row l/4 + 8 (i/2), column 2 (l%4) + i%2.
__device__ inline void ldmatrix(uint32_t (&r)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}
__device__ inline void ldmatrix_trans(uint32_t (&r)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address)
               : "memory");
}
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

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
__device__ inline uint32_t add_bf16(uint32_t a, uint32_t b) {  // two sums, in f32
  return pack_bf16(low_half(a) + low_half(b), high_half(a) + high_half(b));
}
__device__ inline uint4 sum_of(const uint4& a, const uint4& b) {  // eight
  return {add_bf16(a.x, b.x), add_bf16(a.y, b.y), add_bf16(a.z, b.z), add_bf16(a.w, b.w)};
}
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// acc (16 kM, kN) += rows [first, first + 16 kM) of a times the transpose of the first kN rows of b.
template <int kM, int kN, int kD, int kRowsA, int kRowsB = kN>
__device__ inline void multiply_rows(float (&acc)[kM][kN / 8][4], uint32_t a, int first, uint32_t b) {
  const int lane = threadIdx.x % 32;
  using TileA = Tile<kRowsA, kD>;
  using TileB = Tile<kRowsB, kD>;
  const uint32_t from_a = TileA::at(a, first + lane % 16, lane / 16);
  const uint32_t from_b = TileB::at(b, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t fragment[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) ldmatrix(fragment[m], TileA::step(from_a, 16 * m, 2 * k));
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      uint32_t r[4];
      ldmatrix(r, TileB::step(from_b, 16 * n, 2 * k));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(acc[m][2 * n], fragment[m], r[0], r[1]);
        multiply_add(acc[m][2 * n + 1], fragment[m], r[2], r[3]);
      }
    }
  }
}

// acc (16 kM, kD) += p (16 kM, kK), an accumulator rounded to bf16 on the way, times b (kK, kD).
template <int kM, int kK, int kD>
__device__ inline void multiply_scores(float (&acc)[kM][kD / 8][4], const float (&p)[kM][kK / 8][4], uint32_t b) {
  const int lane = threadIdx.x % 32;
  using TileB = Tile<kK, kD>;
  const uint32_t from = TileB::at(b, lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) {
    uint32_t fragment[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        fragment[m][i] = pack_bf16(p[m][2 * k + i / 2][2 * (i % 2)], p[m][2 * k + i / 2][2 * (i % 2) + 1]);
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      uint32_t r[4];
      ldmatrix_trans(r, TileB::step(from, 16 * k, 2 * n));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(acc[m][2 * n], fragment[m], r[0], r[1]);
        multiply_add(acc[m][2 * n + 1], fragment[m], r[2], r[3]);
      }
    }
  }
}

}  // namespace scfa::gpu

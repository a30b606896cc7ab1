// GEMMs of tiles by the warp-level matrix instruction mma.sync.m16n8k16 (bf16, accumulated in f32), for sm_80 and
// newer.
#pragma once
#include "kernels/fragment_math.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu {

// Loads four 8 x 8 matrices; lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
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
// d (16, 8) += a (16, 16) b (16, 8). Accumulator layout: d[i] of a lane is row lane/4 + 8 (i/2), column 2 (lane%4) +
// i%2.
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// acc (16 kM, kN) += a' b'^T: a' is rows [first, first + 16 kM) of tile a (kRowsA, kD), b' the first kN rows of tile b
// (kRowsB, kD).
template <int kM, int kN, int kD, int kRowsA, int kRowsB = kN>
__device__ inline void warp_gemm(float (&acc)[kM][kN / 8][4], uint32_t a, int first, uint32_t b) {
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
        mma(acc[m][2 * n], fragment[m], r[0], r[1]);
        mma(acc[m][2 * n + 1], fragment[m], r[2], r[3]);
      }
    }
  }
}

// acc (16 kM, kD) += p (16 kM, kK) b (kK, kD). p is an accumulator, which is rounded to bf16; b is a tile.
template <int kM, int kK, int kD>
__device__ inline void warp_gemm_rs(float (&acc)[kM][kD / 8][4], const float (&p)[kM][kK / 8][4], uint32_t b) {
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
        mma(acc[m][2 * n], fragment[m], r[0], r[1]);
        mma(acc[m][2 * n + 1], fragment[m], r[2], r[3]);
      }
    }
  }
}

}  // namespace scfa::gpu

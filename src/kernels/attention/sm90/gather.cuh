// How the producer warpgroup copies rows of bf16 from token order into tiles: with cp.async, 16 bytes per copy. (TMA
// copies boxes of rows that lie side by side; the rows of a segment do not.)
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm90 {

// Rows of one head: where this lane's 16 bytes of row 0 are, and how many bytes apart rows lie.
struct LaneSource {
  const char* base;
  uint32_t stride;
  __device__ LaneSource(const HeadView& head, int chunk)
      : base(reinterpret_cast<const char*>(head.data + chunk * 8)),
        stride(static_cast<uint32_t>(head.row_stride) * 2) {}
};

// A producer warp's quarter of a tile of kRows rows. One instruction of the warp copies kRowsAtOnce rows. The next
// one copies the kRowsAtOnce rows behind them: its swizzled addresses differ by a constant and an xor only.
template <int kRows, int kD>
struct WarpRows {
  static constexpr int kCount = kRows / 4, kChunks = kD / 8, kRowsAtOnce = 32 / kChunks;
  static_assert(kCount % 8 == 0);
  __device__ static int first() { return opaque(threadIdx.x / 32) * kCount; }

  // Copies the warp's rows of kOperands tensors to as many tiles. token(i): the token of tile row first() + i + lane /
  // kChunks; negative for zeros. inside: whether the lane's 16 bytes are within the head dim.
  template <int kOperands, class Token>
  __device__ static void copy(const uint32_t (&tiles)[kOperands], const LaneSource* const (&from)[kOperands],
                              bool inside, const Token& token) {
    const int lane = threadIdx.x % 32;
    const uint32_t corner = Tile<kRows, kD>::at(0, first() + lane / kChunks, lane % kChunks);
#pragma unroll
    for (int row = 0; row < kCount; row += kRowsAtOnce) {
      const int t = token(row);
      const bool valid = inside && t >= 0;
      const uint32_t to = (corner ^ ((row & 7) << 4)) + row * 128;
#pragma unroll
      for (int o = 0; o < kOperands; ++o)
        copy_async<16>(tiles[o] + to,
                       from[o]->base + (valid ? static_cast<uint64_t>(static_cast<uint32_t>(t)) * from[o]->stride : 0),
                       valid);
    }
  }
};

// The tokens of a warp's quarter of the outer rows. A lane holds those of one row in 32; shuffles pass them on.
template <int kRows, int kD>
class OuterTokens {
  using Rows = WarpRows<kRows, kD>;
  static constexpr int kWords = (Rows::kCount + 31) / 32;

 public:
  __device__ OuterTokens(const int* index, int rows) {
    const int lane = threadIdx.x % 32, first = static_cast<int>(threadIdx.x / 32) * Rows::kCount + lane;
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      token_[i] = lane + 32 * i < Rows::kCount && first + 32 * i < rows ? index[first + 32 * i] : -1;
  }
  __device__ int operator()(int row) const {
    return __shfl_sync(0xFFFFFFFFu, token_[row / 32], row % 32 + threadIdx.x % 32 / Rows::kChunks);
  }
  // Calls work(row, token) for the rows whose tokens the lane holds.
  template <class Work>
  __device__ void for_each(const Work& work) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      if (token_[i] >= 0)
        work(static_cast<int>(threadIdx.x / 32) * Rows::kCount + 32 * i + threadIdx.x % 32, token_[i]);
  }

 private:
  int token_[kWords];
};

}  // namespace scfa::gpu::sm90

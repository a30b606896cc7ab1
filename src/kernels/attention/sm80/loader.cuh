// Gathering rows from token order into shared memory, and the double-buffered loop over the inner rows of a tile.
#pragma once
#include "kernels/attention/attention_params.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm80 {

// Copies tiles of kRows rows whose tokens an index list names, with all threads of the block. The list is read a tile
// ahead, so that no copy waits for it.
template <int kRows, int kD, int kThreads>
class RowGather {
 public:
  static constexpr int kCopies = kRows * Tile<kRows, kD>::kChunks / kThreads;
  static_assert(kCopies * kThreads == kRows * Tile<kRows, kD>::kChunks);

  // Reads the tokens of entries [begin, begin + kRows) of a list of `count`; rows past the end become zeros.
  __device__ void look_up(const int* index, int begin, int count) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = begin + row_of(i);
      token_[i] = row < count ? index[row] : -1;
    }
  }
  // Starts copying those rows of one head.
  __device__ void copy(uint32_t tile, const HeadView& head, int D) const {
    const int chunk = threadIdx.x % Tile<kRows, kD>::kChunks;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = token_[i] >= 0 && chunk * 8 < D;
      copy_async<16>(Tile<kRows, kD>::at(tile, row_of(i), chunk),
                     head.data + (valid ? token_[i] * head.row_stride + chunk * 8 : 0), valid);
    }
  }

 private:
  __device__ static int row_of(int step) {
    return (threadIdx.x + step * kThreads) / Tile<kRows, kD>::kChunks;
  }
  int token_[kCopies];
};

// The inner rows of two tensors (k and v, or q and dout) that an index list names, step by step in two stages.
template <class Traits>
class InnerRows {
 public:
  // Steps begin at row `begin` of the list and end at `end`.
  __device__ InnerRows(uint32_t stages, const int* index, int begin, int end)
      : stages_(stages), index_(index), begin_(begin), end_(end) {
    rows_.look_up(index, begin, end);
  }
  __device__ int steps() const { return (end_ - begin_ + Traits::kInnerRows - 1) / Traits::kInnerRows; }
  __device__ int row(int step) const { return begin_ + step * Traits::kInnerRows; }  // the step's first
  __device__ uint32_t first(int step) const { return stages_ + step % 2 * 2 * Traits::InnerTile::kBytes; }
  __device__ uint32_t second(int step) const { return first(step) + Traits::InnerTile::kBytes; }

  // Starts copying a step's rows of one head. load_extra(step): starts further copies of this step.
  template <class Also>
  __device__ void load(int step, const HeadView& first_head, const HeadView& second_head, int D,
                       const Also& load_extra) {
    rows_.copy(first(step), first_head, D);
    rows_.copy(second(step), second_head, D);
    load_extra(step);
    commit_copies();
    rows_.look_up(index_, row(step + 1), end_);
  }

 private:
  uint32_t stages_;
  const int* index_;
  int begin_, end_;
  RowGather<Traits::kInnerRows, Traits::kD, Traits::kThreads> rows_;
};

// Calls compute(step) for each step while load(step + 1) is under way; load(0) has been called. By all threads of the
// block; when it returns, no copy is under way and nobody reads shared memory.
template <class Load, class Compute>
__device__ inline void for_each_step(int steps, const Load& load, const Compute& compute) {
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      load(step + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    compute(step);
    __syncthreads();  // the stage is free
  }
  wait_copies<0>();  // of a tile without steps
  __syncthreads();
}

}  // namespace scfa::gpu::sm80

// Kernels that pass over the rows of all heads: 8 or 16 lanes per row, one access of 16 bytes per lane.
#pragma once
#include "core/gpu.h"
#include "kernels/attention/head_rows.cuh"

namespace scfa::gpu {

constexpr int kRowLaneThreads = 256;

// The elements that a thread works on: kPack consecutive ones of a row. Rows are numbered in (b, t, h) order: rows of
// all heads of a position are adjacent in memory.
struct LaneElements {
  unsigned b, t, h;
  int d;
  bool inside;
};

template <int kLanes>
__device__ inline LaneElements elements_of_lane(unsigned rows, unsigned T, unsigned H, int D) {
  const unsigned row = blockIdx.x * (kRowLaneThreads / kLanes) + threadIdx.x / kLanes, token = row / H;
  const int d = static_cast<int>(threadIdx.x % kLanes) * kPack;
  return {token / T, token % T, row % H, d, row < rows && d < D};
}

// Calls launch(kernel for 8 or 16 lanes per row, blocks, rows).
template <class Kernel, class Launch>
void launch_rows(const char* op, const ConstTensor& x, Kernel narrow, Kernel wide, const Launch& launch) {
  const int64_t rows = x.size(0) * x.size(1) * x.size(2), lanes = x.size(3) <= 64 ? 8 : 16;
  require(rows <= INT32_MAX, op, ": too many rows, ", rows);
  launch(lanes == 8 ? narrow : wide, blocks_for(rows * lanes, kRowLaneThreads), static_cast<unsigned>(rows));
}

}  // namespace scfa::gpu

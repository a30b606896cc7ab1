// Prefix sums over the threads of a block of kScanThreads threads: a warp has one lane per warp of the block.
#pragma once

namespace scfa::gpu {

inline constexpr int kScanThreads = 1024;
constexpr unsigned kFullMask = 0xFFFFFFFFu;

// The sum of the values of the threads before this one, and the total of all.
__device__ inline int exclusive_sum(int value, int& total) {
  __shared__ int warp_totals[kScanThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int inclusive = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kFullMask, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == 31) warp_totals[warp] = inclusive;
  __syncthreads();
  int of_warp = warp_totals[lane];
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kFullMask, of_warp, offset);
    if (lane >= offset) of_warp += other;
  }
  total = __shfl_sync(kFullMask, of_warp, 31);
  const int before = __shfl_sync(kFullMask, of_warp, max(warp - 1, 0));
  __syncthreads();  // the totals may be written again
  return (warp > 0 ? before : 0) + inclusive - value;
}

// Replaces each of counts[0..size) by the sum of those before it, and returns the total.
__device__ inline int exclusive_scan(int* counts, int size) {
  const int per_thread = (size + kScanThreads - 1) / kScanThreads;
  const int begin = min(size, static_cast<int>(threadIdx.x) * per_thread), end = min(size, begin + per_thread);
  int sum = 0, total = 0;
  for (int i = begin; i < end; ++i) sum += counts[i];
  int before = exclusive_sum(sum, total);
  for (int i = begin; i < end; ++i) {
    const int count = counts[i];
    counts[i] = before;
    before += count;
  }
  __syncthreads();
  return total;
}

}  // namespace scfa::gpu

// The second half of a sum over rows: adding the partial sums that blocks have left.
#pragma once
#include <cstdint>

namespace scfa::gpu {

constexpr int kPartialColumns = 32, kPartialThreads = 8;  // of a block: each column has so many threads

// sums[c] += the sum of partial[i * C + c] over all parts, for the kPartialColumns columns of block blockIdx.x. A
// thread adds every eighth part; then the eight sums are added in their order. All threads of the block call it.
__device__ inline void add_partial_sums(float* sums, const float* partial, int64_t parts, int64_t C) {
  __shared__ float of_threads[kPartialThreads][kPartialColumns];
  const int column = threadIdx.x % kPartialColumns, thread = threadIdx.x / kPartialColumns;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kPartialColumns + column;
  float sum = 0.0f;
  if (c < C)
#pragma unroll 8
    for (int64_t i = thread; i < parts; i += kPartialThreads) sum += partial[i * C + c];
  of_threads[thread][column] = sum;
  __syncthreads();
  if (thread != 0 || c >= C) return;
#pragma unroll
  for (int other = 1; other < kPartialThreads; ++other) sum += of_threads[other][column];
  sums[c] += sum;
}

}  // namespace scfa::gpu

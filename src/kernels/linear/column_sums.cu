#include "kernels/linear/column_sums.h"

#include <algorithm>

#include "kernels/device_math.cuh"

namespace scfa::gpu {

namespace {

constexpr int kColumns = 32, kThreadsPerColumn = 8;
constexpr int64_t kRowsPerPart = 256;

// A thread adds every eighth part; then the eight sums are added in their order.
__global__ void __launch_bounds__(kColumns* kThreadsPerColumn)
    add_partial_sums_kernel(float* sums, const float* partial, int64_t parts, int64_t C) {
  __shared__ float of_threads[kThreadsPerColumn][kColumns];
  const int column = threadIdx.x % kColumns, thread = threadIdx.x / kColumns;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  float sum = 0.0f;
  if (c < C)
#pragma unroll 8
    for (int64_t i = thread; i < parts; i += kThreadsPerColumn) sum += partial[i * C + c];
  of_threads[thread][column] = sum;
  __syncthreads();
  if (thread != 0 || c >= C) return;
#pragma unroll
  for (int other = 1; other < kThreadsPerColumn; ++other) sum += of_threads[other][column];
  sums[c] += sum;
}

}  // namespace

int64_t row_parts(int64_t rows, int64_t columns, const char* op) {
  const int64_t most = (Context::kWorkspaceBytes - kLibraryBytes) / (columns * 4);
  require(most > 0, op, ": rows of ", columns, " are too long for its partial sums");
  return std::min({most, (rows + kRowsPerPart - 1) / kRowsPerPart, int64_t{65535}});
}

void add_partial_sums(Context& ctx, const Tensor& sums, int64_t parts, const char* op) {
  const int64_t C = sums.numel();
  add_partial_sums_kernel<<<blocks_for(C, kColumns), kColumns * kThreadsPerColumn, 0, ctx.stream()>>>(
      sums.as<float>(), partial_sums(ctx), parts, C);
  check_launch(op, ctx.stream());
}

}  // namespace scfa::gpu

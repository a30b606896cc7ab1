#include "kernels/linear/column_sums.h"

#include <algorithm>

#include "kernels/device_math.cuh"
#include "kernels/partial_sums.cuh"

namespace scfa::gpu {

namespace {

constexpr int64_t kRowsPerPart = 256;

__global__ void __launch_bounds__(kPartialColumns* kPartialThreads)
    add_partial_sums_kernel(float* sums, const float* partial, int64_t parts, int64_t C) {
  add_partial_sums(sums, partial, parts, C);
}

}  // namespace

int64_t row_parts(int64_t rows, int64_t columns, const char* op) {
  const int64_t most = (Context::kWorkspaceBytes - kLibraryBytes) / (columns * 4);
  require(most > 0, op, ": rows of ", columns, " are too long for its partial sums");
  return std::min({most, (rows + kRowsPerPart - 1) / kRowsPerPart, int64_t{65535}});
}

void add_partial_sums(Context& ctx, const Tensor& sums, int64_t parts, const char* op) {
  const int64_t C = sums.numel();
  add_partial_sums_kernel<<<blocks_for(C, kPartialColumns), kPartialColumns * kPartialThreads, 0, ctx.stream()>>>(
      sums.as<float>(), partial_sums(ctx), parts, C);
  check_launch(op, ctx.stream());
}

}  // namespace scfa::gpu

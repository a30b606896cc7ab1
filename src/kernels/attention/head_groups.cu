// Sums of the gradients of head groups. Memory-bound: 8 or 16 lanes per row, one 16-byte access per lane and head.
#include "kernels/attention/head_groups.h"
#include "kernels/attention/head_rows.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256;

// Rows of `to` are numbered in (b, t, h) order: rows of all heads of a position are adjacent in memory.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    sum_head_groups_kernel(HeadRows to, HeadRows from, int group, unsigned rows, unsigned T, unsigned H, int D) {
  const unsigned row = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes, token = row / H, h = row % H;
  const int d = static_cast<int>(threadIdx.x % kLanes) * kPack;
  if (row >= rows || d >= D) return;
  const __nv_bfloat16* in = from.row(token / T, token % T, static_cast<int64_t>(h) * group) + d;
  float sum[kPack];
  load(sum, in);
  for (int g = 1; g < group; ++g) {
    float x[kPack];
    load(x, in + g * from.head_stride);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum[i] += x[i];
  }
  store(to.row(token / T, token % T, h) + d, sum);
}

}  // namespace

void sum_head_groups(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "sum_head_groups";
  require_packs(kOp, "to", to);
  require_packs(kOp, "from", from);
  const int64_t rows = to.size(0) * to.size(1) * to.size(2), lanes = to.size(3) <= 64 ? 8 : 16;
  require(rows <= INT32_MAX, kOp, ": too many rows, ", rows);
  const auto kernel = lanes == 8 ? sum_head_groups_kernel<8> : sum_head_groups_kernel<16>;
  kernel<<<blocks_for(rows * lanes, kThreads), kThreads, 0, ctx.stream()>>>(
      head_rows(to), head_rows(from), static_cast<int>(from.size(2) / to.size(2)), static_cast<unsigned>(rows),
      static_cast<unsigned>(to.size(1)), static_cast<unsigned>(to.size(2)), static_cast<int>(to.size(3)));
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

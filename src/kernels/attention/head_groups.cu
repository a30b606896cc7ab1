// Sums of the gradients of head groups. Memory-bound: 8 or 16 lanes per row, one 16-byte access per lane and head.
#include "kernels/attention/head_groups.h"
#include "kernels/attention/row_lanes.cuh"

namespace scfa::gpu {

namespace {

// Rows are those of `to`.
template <int kLanes>
__global__ void __launch_bounds__(kRowLaneThreads)
    sum_head_groups_kernel(HeadRows to, HeadRows from, int group, unsigned rows, unsigned T, unsigned H, int D) {
  const LaneElements at = elements_of_lane<kLanes>(rows, T, H, D);
  if (!at.inside) return;
  const __nv_bfloat16* in = from.row(at.b, at.t, static_cast<int64_t>(at.h) * group) + at.d;
  float sum[kPack];
  load(sum, in);
  for (int g = 1; g < group; ++g) {
    float x[kPack];
    load(x, in + g * from.head_stride);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum[i] += x[i];
  }
  store(to.row(at.b, at.t, at.h) + at.d, sum);
}

}  // namespace

void sum_head_groups(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "sum_head_groups";
  require_packs(kOp, "to", to);
  require_packs(kOp, "from", from);
  const auto group = static_cast<int>(from.size(2) / to.size(2));
  launch_rows(kOp, to, sum_head_groups_kernel<8>, sum_head_groups_kernel<16>,
              [&](auto kernel, unsigned blocks, unsigned rows) {
                kernel<<<blocks, kRowLaneThreads, 0, ctx.stream()>>>(
                    head_rows(to), head_rows(from), group, rows, static_cast<unsigned>(to.size(1)),
                    static_cast<unsigned>(to.size(2)), static_cast<int>(to.size(3)));
              });
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

// Results of several relations. Memory-bound: 8 or 16 lanes per row, one 16-byte access per lane.
#include "kernels/attention/combine.h"
#include "kernels/attention/row_lanes.cuh"

namespace scfa::gpu {

namespace {

template <int kLanes>
__global__ void __launch_bounds__(kRowLaneThreads)
    combine_kernel(HeadRows out, float* lse, HeadRows partial_out, const float* partial_lse, unsigned rows, unsigned T,
                   unsigned H, int D) {
  const LaneElements at = elements_of_lane<kLanes>(rows, T, H, D);
  const int64_t entry = (static_cast<int64_t>(at.b) * H + at.h) * T + at.t;
  const float sum = at.inside ? lse[entry] : INFINITY, added = at.inside ? partial_lse[entry] : INFINITY;
  __syncwarp();  // the lanes of a row have read lse before one of them writes it
  if (!at.inside || added == INFINITY) return;
  const float top = sum == INFINITY ? added : fmaxf(sum, added);
  const float old = sum == INFINITY ? 0.0f : exp2f(sum - top), more = exp2f(added - top);
  const float total = old + more;
  __nv_bfloat16* to = out.row(at.b, at.t, at.h) + at.d;
  float x[kPack], y[kPack];
  load(x, to);
  load(y, partial_out.row(at.b, at.t, at.h) + at.d);
#pragma unroll
  for (int i = 0; i < kPack; ++i) x[i] = (x[i] * old + y[i] * more) / total;
  store(to, x);
  if (at.d == 0) lse[entry] = top + log2f(total);
}

template <int kLanes>
__global__ void __launch_bounds__(kRowLaneThreads)
    add_gradient_kernel(HeadRows to, HeadRows from, unsigned rows, unsigned T, unsigned H, int D) {
  const LaneElements at = elements_of_lane<kLanes>(rows, T, H, D);
  if (!at.inside) return;
  __nv_bfloat16* sum = to.row(at.b, at.t, at.h) + at.d;
  float x[kPack], y[kPack];
  load(x, sum);
  load(y, from.row(at.b, at.t, at.h) + at.d);
#pragma unroll
  for (int i = 0; i < kPack; ++i) x[i] += y[i];
  store(sum, x);
}

}  // namespace

void combine_partial_results(Context& ctx, Tensor out, Tensor lse, ConstTensor partial_out, ConstTensor partial_lse) {
  constexpr const char* kOp = "combine_partial_results";
  require_packs(kOp, "out", out);
  require_packs(kOp, "partial_out", partial_out);
  launch_rows(kOp, out, combine_kernel<8>, combine_kernel<16>, [&](auto kernel, unsigned blocks, unsigned rows) {
    kernel<<<blocks, kRowLaneThreads, 0, ctx.stream()>>>(
        head_rows(out), lse.as<float>(), head_rows(partial_out), partial_lse.as<float>(), rows,
        static_cast<unsigned>(out.size(1)), static_cast<unsigned>(out.size(2)), static_cast<int>(out.size(3)));
  });
  check_launch(kOp, ctx.stream());
}

void add_gradient(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "add_gradient";
  require_packs(kOp, "to", to);
  require_packs(kOp, "from", from);
  launch_rows(kOp, to, add_gradient_kernel<8>, add_gradient_kernel<16>,
              [&](auto kernel, unsigned blocks, unsigned rows) {
                kernel<<<blocks, kRowLaneThreads, 0, ctx.stream()>>>(
                    head_rows(to), head_rows(from), rows, static_cast<unsigned>(to.size(1)),
                    static_cast<unsigned>(to.size(2)), static_cast<int>(to.size(3)));
              });
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

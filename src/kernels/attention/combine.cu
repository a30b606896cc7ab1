// Results of several relations. Memory-bound: 8 or 16 lanes per row, one 16-byte access per lane.
#include "kernels/attention/combine.h"
#include "kernels/attention/head_rows.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256;

// The elements that a thread works on: kPack consecutive ones of a row. Rows are numbered in (b, t, h) order: rows of
// all heads of a position are adjacent in memory.
struct LaneElements {
  unsigned b, t, h;
  int d;
  bool inside;
};

template <int kLanes>
__device__ LaneElements elements_of_lane(unsigned rows, unsigned T, unsigned H, int D) {
  const unsigned row = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes, token = row / H;
  const int d = static_cast<int>(threadIdx.x % kLanes) * kPack;
  return {token / T, token % T, row % H, d, row < rows && d < D};
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads)
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
__global__ void __launch_bounds__(kThreads)
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

// Calls launch(kernel for 8 or 16 lanes per row, blocks, rows).
template <class Kernel, class Launch>
void launch_rows(const char* op, const ConstTensor& x, Kernel narrow, Kernel wide, const Launch& launch) {
  const int64_t rows = x.size(0) * x.size(1) * x.size(2), lanes = x.size(3) <= 64 ? 8 : 16;
  require(rows <= INT32_MAX, op, ": too many rows, ", rows);
  launch(lanes == 8 ? narrow : wide, blocks_for(rows * lanes, kThreads), static_cast<unsigned>(rows));
}

}  // namespace

void combine_partial_results(Context& ctx, Tensor out, Tensor lse, ConstTensor partial_out, ConstTensor partial_lse) {
  constexpr const char* kOp = "combine_partial_results";
  require_packs(kOp, "out", out);
  require_packs(kOp, "partial_out", partial_out);
  launch_rows(kOp, out, combine_kernel<8>, combine_kernel<16>, [&](auto kernel, unsigned blocks, unsigned rows) {
    kernel<<<blocks, kThreads, 0, ctx.stream()>>>(head_rows(out), lse.as<float>(), head_rows(partial_out),
                                                  partial_lse.as<float>(), rows, static_cast<unsigned>(out.size(1)),
                                                  static_cast<unsigned>(out.size(2)), static_cast<int>(out.size(3)));
  });
  check_launch(kOp, ctx.stream());
}

void add_gradient(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "add_gradient";
  require_packs(kOp, "to", to);
  require_packs(kOp, "from", from);
  launch_rows(
      kOp, to, add_gradient_kernel<8>, add_gradient_kernel<16>, [&](auto kernel, unsigned blocks, unsigned rows) {
        kernel<<<blocks, kThreads, 0, ctx.stream()>>>(head_rows(to), head_rows(from), rows,
                                                      static_cast<unsigned>(to.size(1)),
                                                      static_cast<unsigned>(to.size(2)), static_cast<int>(to.size(3)));
      });
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

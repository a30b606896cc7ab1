#include "kernels/attention/combine.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention/rows.h"

namespace scfa {

namespace {

void check_like(const char* op, const char* name, const ConstTensor& t, const ConstTensor& like) {
  require_rows(op, name, t);
  require(t.same_shape(like) && t.dtype == like.dtype, op, ": ", name, " must be like ", like.describe(), ", not ",
          t.describe());
}

}  // namespace

void combine_partial_results(Context& ctx, Tensor out, Tensor lse, ConstTensor partial_out, ConstTensor partial_lse) {
  constexpr const char* kOp = "combine_partial_results";
  require_rows(kOp, "out", out);
  require_activation(ctx, kOp, "out", out);
  check_like(kOp, "partial_out", partial_out, out);
  require_tensor(lse, kOp, "lse", DType::kF32, {out.size(0), out.size(2), out.size(1)});
  require_tensor(partial_lse, kOp, "partial_lse", DType::kF32, {out.size(0), out.size(2), out.size(1)});
  ctx.require_here(kOp, {out, lse, partial_out, partial_lse});
  if (out.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::combine_partial_results(ctx, out, lse, partial_out, partial_lse);
  cpu::combine_partial_results(ctx, out, lse, partial_out, partial_lse);
}

void add_gradient(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "add_gradient";
  require_rows(kOp, "to", to);
  require_activation(ctx, kOp, "to", to);
  check_like(kOp, "from", from, to);
  ctx.require_here(kOp, {to, from});
  if (to.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::add_gradient(ctx, to, from);
  cpu::add_gradient(ctx, to, from);
}

namespace cpu {

namespace {

// Calls work(row of a, row of b, entry of a (B, H, T) array) for every row of two (B, T, H, D) tensors.
template <class Work>
void for_each_row(const Tensor& a, const ConstTensor& b, const Work& work) {
  const int64_t B = a.size(0), T = a.size(1), H = a.size(2);
  const auto at = [](const auto& x, int64_t i, int64_t t, int64_t h) {
    return i * x.stride[0] + t * x.stride[1] + h * x.stride[2];
  };
#pragma omp parallel for
  for (int64_t i = 0; i < B * T; ++i)
    for (int64_t h = 0; h < H; ++h)
      work(a.template as<float>() + at(a, i / T, i % T, h), b.template as<float>() + at(b, i / T, i % T, h),
           (i / T * H + h) * T + i % T);
}

}  // namespace

void combine_partial_results(Context& /*ctx*/, Tensor out, Tensor lse, ConstTensor partial_out,
                             ConstTensor partial_lse) {
  const int64_t D = out.size(3);
  for_each_row(out, partial_out, [&](float* row, const float* partial, int64_t entry) {
    float& sum = lse.as<float>()[entry];
    const float added = partial_lse.as<float>()[entry];
    if (added == INFINITY) return;
    const float top = sum == INFINITY ? added : std::max(sum, added);
    const float old = sum == INFINITY ? 0.0f : std::exp2(sum - top), more = std::exp2(added - top);
    const float total = old + more;
    for (int64_t d = 0; d < D; ++d) row[d] = (row[d] * old + partial[d] * more) / total;
    sum = top + std::log2(total);
  });
}

void add_gradient(Context& /*ctx*/, Tensor to, ConstTensor from) {
  const int64_t D = to.size(3);
  for_each_row(to, from, [&](float* row, const float* added, int64_t) {
    for (int64_t d = 0; d < D; ++d) row[d] += added[d];
  });
}

}  // namespace cpu
}  // namespace scfa

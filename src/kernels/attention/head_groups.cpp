#include "kernels/attention/head_groups.h"

#include <algorithm>
#include <utility>

#include "kernels/attention/rows.h"

namespace scfa {

void sum_head_groups(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "sum_head_groups";
  for (const auto& [name, t] : {std::pair<const char*, ConstTensor>("to", to), std::pair("from", from)}) {
    require_rows(kOp, name, t);
    require_activation(ctx, kOp, name, t);
  }
  require(to.size(0) == from.size(0) && to.size(1) == from.size(1) && to.size(3) == from.size(3) && to.size(2) > 0 &&
              from.size(2) % to.size(2) == 0,
          kOp, ": from must be like to, ", to.describe(), ", but for heads, of which it has a multiple, not ",
          from.describe());
  ctx.require_here(kOp, {to, from});
  if (to.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::sum_head_groups(ctx, to, from);
  cpu::sum_head_groups(ctx, to, from);
}

namespace cpu {

void sum_head_groups(Context& /*ctx*/, Tensor to, ConstTensor from) {
  const int64_t B = to.size(0), T = to.size(1), heads = to.size(2), D = to.size(3), group = from.size(2) / heads;
#pragma omp parallel for
  for (int64_t i = 0; i < B * T; ++i)
    for (int64_t h = 0; h < heads; ++h) {
      float* sum = to.as<float>() + i / T * to.stride[0] + i % T * to.stride[1] + h * to.stride[2];
      const float* row =
          from.as<float>() + i / T * from.stride[0] + i % T * from.stride[1] + h * group * from.stride[2];
      std::copy_n(row, D, sum);
      for (int64_t g = 1; g < group; ++g)
        for (int64_t d = 0; d < D; ++d) sum[d] += row[g * from.stride[2] + d];
    }
}

}  // namespace cpu
}  // namespace scfa

#include "kernels/cast.h"

#include <algorithm>

namespace scfa {

void cast(Context& ctx, Tensor to, ConstTensor from) {
  constexpr const char* kOp = "cast";
  const auto floating = [](const ConstTensor& t) { return t.dtype == DType::kF32 || t.dtype == DType::kBF16; };
  require(to.data && from.data && to.contiguous() && from.contiguous() && to.numel() == from.numel() && floating(to) &&
              floating(from),
          kOp, ": must be contiguous f32 or bf16 of one size, not ", from.describe(), " to ", to.describe());
  ctx.require_here(kOp, {to, from});
  if (to.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::cast(ctx, to, from);
  cpu::cast(ctx, to, from);
}

namespace cpu {

void cast(Context& /*ctx*/, Tensor to, ConstTensor from) {
  std::copy_n(from.as<float>(), from.numel(), to.as<float>());
}

}  // namespace cpu
}  // namespace scfa

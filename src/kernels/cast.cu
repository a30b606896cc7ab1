// Conversion between element types; memory-bound, eight elements per thread.
#include "kernels/cast.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

namespace {

template <class To, class From>
__global__ void __launch_bounds__(256) cast_kernel(To* to, const From* from, int64_t n) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (i + kPack <= n) {
    float v[kPack];
    load(v, from + i);
    store(to + i, v);
  } else {
    for (int64_t j = i; j < n; ++j) assign(to[j], to_float(from[j]));
  }
}

template <class To, class From>
void launch(Context& ctx, const Tensor& to, const ConstTensor& from) {
  const int64_t n = to.numel();
  cast_kernel<<<blocks_for((n + kPack - 1) / kPack, 256), 256, 0, ctx.stream()>>>(
      static_cast<To*>(to.data), static_cast<const From*>(from.data), n);
  check_launch("cast", ctx.stream());
}

}  // namespace

void cast(Context& ctx, Tensor to, ConstTensor from) {
  const bool wide_to = to.dtype == DType::kF32, wide_from = from.dtype == DType::kF32;
  if (wide_to == wide_from) return ctx.copy(to, from);
  if (wide_from)
    launch<__nv_bfloat16, float>(ctx, to, from);
  else
    launch<float, __nv_bfloat16>(ctx, to, from);
}

}  // namespace scfa::gpu

#include "core/rng.h"
#include "kernels/device_math.cuh"
#include "kernels/random.h"

namespace scfa::gpu {

namespace {

template <class T>
__global__ void __launch_bounds__(256) normal_kernel(T* x, int64_t n, uint64_t seed, uint32_t sample) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (2 * pair >= n) return;
  const Random4 bits =
      random4(seed, Purpose::kInit, static_cast<uint32_t>(pair >> 32), 0, 0, sample, static_cast<uint32_t>(pair));
  float a, b;
  normal2(bits.v[0], bits.v[1], a, b);
  assign(x[2 * pair], a);
  if (2 * pair + 1 < n) assign(x[2 * pair + 1], b);
}

template <class T>
void fill(Context& ctx, const Tensor& x, uint64_t seed, uint32_t sample) {
  normal_kernel<<<blocks_for((x.numel() + 1) / 2, 256), 256, 0, ctx.stream()>>>(static_cast<T*>(x.data), x.numel(),
                                                                                seed, sample);
  check_launch("fill_normal", ctx.stream());
}

}  // namespace

void fill_normal(Context& ctx, Tensor x, uint64_t seed, uint32_t sample) {
  if (x.dtype == DType::kF32) return fill<float>(ctx, x, seed, sample);
  fill<__nv_bfloat16>(ctx, x, seed, sample);
}

}  // namespace scfa::gpu

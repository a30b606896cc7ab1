// Random directions on the GPU.
#include "core/rng.h"
#include "kernels/attention/patterns/projections.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

namespace {

// One warp per direction. grid: (heads, rounds)
__global__ void __launch_bounds__(256) projections_kernel(float* projections, int columns, int D, uint64_t seed,
                                                          RandomStep at_step, uint32_t layer, uint32_t first_head) {
  const uint32_t step = at_step.get();
  const int lane = threadIdx.x % 32;
  const uint32_t head = first_head + blockIdx.x, round = blockIdx.y;
  const int64_t list = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  for (int c = threadIdx.x / 32; c < columns; c += blockDim.x / 32) {
    float* direction = projections + (list * columns + c) * D;
    const auto number = [&](int d) {
      const int at = c * D + d;
      const Random4 bits = random4(seed, Purpose::kProjection, step, layer, head, round, static_cast<uint32_t>(at / 2));
      float x, y;
      normal2(bits.v[0], bits.v[1], x, y);
      return at % 2 == 0 ? x : y;
    };
    double square = 0.0;
    for (int d = lane; d < D; d += 32) {
      const double x = number(d);
      square += x * x;
    }
    square = warp_sum(square);
    const auto scale = static_cast<float>(1.0 / sqrt(square));
    for (int d = lane; d < D; d += 32) direction[d] = number(d) * scale;
  }
}

}  // namespace

void draw_projections(Context& ctx, Tensor projections, uint64_t seed, RandomStep step, uint32_t layer,
                      int64_t first_head) {
  if (projections.numel() == 0) return;
  const dim3 grid(static_cast<unsigned>(projections.size(1)), static_cast<unsigned>(projections.size(0)));
  projections_kernel<<<grid, 256, 0, ctx.stream()>>>(projections.as<float>(), static_cast<int>(projections.size(2)),
                                                     static_cast<int>(projections.size(3)), seed, step, layer,
                                                     static_cast<uint32_t>(first_head));
  check_launch("draw_projections", ctx.stream());
}

}  // namespace scfa::gpu

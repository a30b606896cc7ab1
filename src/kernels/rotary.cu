// Rotary position embedding.        Su et al. 2021, arXiv:2104.09864
#include <algorithm>

#include "kernels/device_math.cuh"
#include "kernels/rotary.h"

namespace scfa::gpu {

namespace {

// A thread owns the pair d of position t in the heads [blockIdx.y * each, ...) of all sequences. Angles are taken in
// double, as large positions need, and used for all of these heads.
__global__ void __launch_bounds__(256)
    rotary_kernel(__nv_bfloat16* x, int64_t batch, int64_t token, int64_t head, int B, int T, int H, int half, int each,
                  int64_t first, double theta, int direction) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<int64_t>(T) * half) return;
  const int t = static_cast<int>(i / half), d = static_cast<int>(i % half);
  const double angle = static_cast<double>(first + t) * pow(theta, -static_cast<double>(d) / static_cast<double>(half));
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  const float c = static_cast<float>(cosine), s = static_cast<float>(direction * sine);
  const int begin = blockIdx.y * each, end = min(B * H, begin + each);
  for (int row = begin; row < end; ++row) {
    __nv_bfloat16* at = x + row / H * batch + t * token + row % H * head + d;
    const float a = __bfloat162float(at[0]), b = __bfloat162float(at[half]);
    at[0] = __float2bfloat16_rn(a * c - b * s);
    at[half] = __float2bfloat16_rn(b * c + a * s);
  }
}

}  // namespace

void rotary(Context& ctx, Tensor x, int64_t first_position, double theta, int direction) {
  const int B = static_cast<int>(x.size(0)), T = static_cast<int>(x.size(1)), H = static_cast<int>(x.size(2));
  const int half = static_cast<int>(x.size(3) / 2);
  const unsigned blocks = blocks_for(static_cast<int64_t>(T) * half, 256);
  const int groups = std::clamp(2048 / static_cast<int>(std::min(blocks, 2048u)), 1, std::min(B * H, 65535));
  const int each = (B * H + groups - 1) / groups;
  rotary_kernel<<<dim3(blocks, static_cast<unsigned>(groups)), 256, 0, ctx.stream()>>>(
      static_cast<__nv_bfloat16*>(x.data), x.stride[0], x.stride[1], x.stride[2], B, T, H, half, each, first_position,
      theta, direction);
  check_launch("rotary", ctx.stream());
}

}  // namespace scfa::gpu

#include "kernels/rotary.h"

#include <cmath>

namespace scfa {

void rotary(Context& ctx, Tensor x, int64_t first_position, double theta, int direction) {
  constexpr const char* kOp = "rotary";
  require(x.data && x.ndim == 4 && x.stride[3] == 1 && x.size(3) % 2 == 0, kOp,
          ": x must be (B, T, H, D) with D even and contiguous, not ", x.describe());
  require(x.size(3) <= kMaxRotaryDim, kOp, ": head dim ", x.size(3), " is more than ", kMaxRotaryDim);
  require(direction == 1 || direction == -1, kOp, ": direction must be 1 or -1, not ", direction);
  require_activation(ctx, kOp, "x", x);
  ctx.require_here(kOp, {x});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::rotary(ctx, x, first_position, theta, direction);
  cpu::rotary(ctx, x, first_position, theta, direction);
}

namespace cpu {

void rotary(Context& /*ctx*/, Tensor x, int64_t first_position, double theta, int direction) {
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), half = x.size(3) / 2;
  float* data = x.as<float>();
  constexpr int64_t kMaxHalf = kMaxRotaryDim / 2;
  double frequency[kMaxHalf];
  for (int64_t d = 0; d < half; ++d)
    frequency[d] = std::pow(theta, -static_cast<double>(d) / static_cast<double>(half));
#pragma omp parallel for
  for (int64_t t = 0; t < T; ++t) {
    float cosine[kMaxHalf], sine[kMaxHalf];
    for (int64_t d = 0; d < half; ++d) {
      const double angle = static_cast<double>(first_position + t) * frequency[d];
      cosine[d] = static_cast<float>(std::cos(angle));
      sine[d] = static_cast<float>(direction * std::sin(angle));
    }
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < H; ++h) {
        float* row = data + b * x.stride[0] + t * x.stride[1] + h * x.stride[2];
#pragma omp simd
        for (int64_t d = 0; d < half; ++d) {
          const float a = row[d], c = row[d + half];
          row[d] = a * cosine[d] - c * sine[d];
          row[d + half] = c * cosine[d] + a * sine[d];
        }
      }
  }
}

}  // namespace cpu
}  // namespace scfa

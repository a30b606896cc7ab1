#include "kernels/random.h"

#include "core/rng.h"

namespace scfa {

void fill_normal(Context& ctx, Tensor x, uint64_t seed, uint32_t sample) {
  constexpr const char* kOp = "fill_normal";
  require(x.data && x.contiguous() && (x.dtype == DType::kF32 || (x.dtype == DType::kBF16 && ctx.on_gpu())), kOp,
          ": x must be contiguous f32, or bf16 on the GPU, not ", x.data ? x.describe() : "empty");
  ctx.require_here(kOp, {x});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::fill_normal(ctx, x, seed, sample);
  cpu::fill_normal(ctx, x, seed, sample);
}

namespace cpu {

void fill_normal(Context& /*ctx*/, Tensor x, uint64_t seed, uint32_t sample) {
  float* data = x.as<float>();
  const int64_t n = x.numel();
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < (n + 1) / 2; ++pair) {
    const Random4 bits =
        random4(seed, Purpose::kInit, static_cast<uint32_t>(pair >> 32), 0, 0, sample, static_cast<uint32_t>(pair));
    float a, b;
    normal2(bits.v[0], bits.v[1], a, b);
    data[2 * pair] = a;
    if (2 * pair + 1 < n) data[2 * pair + 1] = b;
  }
}

}  // namespace cpu
}  // namespace scfa

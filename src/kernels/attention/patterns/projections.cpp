#include "kernels/attention/patterns/projections.h"

#include <cmath>

#include "core/rng.h"

namespace scfa {

void draw_projections(Context& ctx, Tensor projections, uint64_t seed, RandomStep step, uint32_t layer,
                      int64_t first_head) {
  require(projections.data && projections.ndim == 4 && projections.contiguous(),
          "draw_projections: projections must be (rounds, heads, buckets/2, D), not ",
          projections.data == nullptr ? "empty" : projections.describe());
  ctx.require_here("draw_projections", {projections});
  const ProfileRange range(ctx, "draw_projections", Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::draw_projections(ctx, projections, seed, step, layer, first_head);
  cpu::draw_projections(ctx, projections, seed, step, layer, first_head);
}

namespace cpu {

void draw_projections(Context& /*ctx*/, Tensor projections, uint64_t seed, RandomStep step, uint32_t layer,
                      int64_t first_head) {
  const int64_t heads = projections.size(1), columns = projections.size(2), D = projections.size(3);
  for (int64_t i = 0; i < projections.size(0) * heads; ++i) {
    const auto round = static_cast<uint32_t>(i / heads), head = static_cast<uint32_t>(first_head + i % heads);
    for (int64_t c = 0; c < columns; ++c) {
      float* direction = projections.as<float>() + (i * columns + c) * D;
      double square = 0.0;
      for (int64_t d = 0; d < D; ++d) {
        const int64_t pair = (c * D + d) / 2, half = (c * D + d) % 2;
        const Random4 bits =
            random4(seed, Purpose::kProjection, step.value, layer, head, round, static_cast<uint32_t>(pair));
        float x, y;
        normal2(bits.v[0], bits.v[1], x, y);
        direction[d] = half == 0 ? x : y;
        square += static_cast<double>(direction[d]) * static_cast<double>(direction[d]);
      }
      const auto scale = static_cast<float>(1.0 / std::sqrt(square));
      for (int64_t d = 0; d < D; ++d) direction[d] *= scale;
    }
  }
}

}  // namespace cpu
}  // namespace scfa

// Rotary position embedding.        Su et al. 2021, arXiv:2104.09864
#pragma once
#include "core/context.h"

namespace scfa {

inline constexpr int64_t kMaxRotaryDim = 512;

// Rotates, in place, the pair (x[d], x[d + D/2]) of every head by (first_position + t) * theta^(-2d/D); direction -1
// rotates back, which is the gradient.
//   x  in/out (B, T, H, D) f32 on CPU, bf16 on GPU, D even, at most kMaxRotaryDim and contiguous; other strides free
void rotary(Context& ctx, Tensor x, int64_t first_position, double theta, int direction);

namespace cpu {
decltype(scfa::rotary) rotary;
}
namespace gpu {
decltype(scfa::rotary) rotary;
}
}  // namespace scfa

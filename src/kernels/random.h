// Random contents, the same on CPU and GPU up to the rounding of the device's logarithm and sine.
#pragma once
#include "core/context.h"

namespace scfa {

// x = standard normal numbers: a pure function of (seed, sample, index).
//   x  out, contiguous, f32; bf16 too on the GPU      sample < 2^24
void fill_normal(Context& ctx, Tensor x, uint64_t seed, uint32_t sample);

namespace cpu {
decltype(scfa::fill_normal) fill_normal;
}
namespace gpu {
decltype(scfa::fill_normal) fill_normal;
}
}  // namespace scfa

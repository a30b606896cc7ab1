// Random directions of the hash.
#pragma once
#include "core/context.h"
#include "core/rng.h"

namespace scfa {

// Unit vectors of random direction, a function of (seed, step, layer, round, head). Heads are numbered from first_head
// on, so that the directions of a head do not depend on the patterns of other heads. Deterministic.
//   projections  out (rounds, heads, buckets/2, D) f32, contiguous
void draw_projections(Context& ctx, Tensor projections, uint64_t seed, RandomStep step, uint32_t layer,
                      int64_t first_head = 0);

namespace cpu {
decltype(scfa::draw_projections) draw_projections;
}
namespace gpu {
decltype(scfa::draw_projections) draw_projections;
}
}  // namespace scfa

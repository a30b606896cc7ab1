// Random directions of the hash.
#pragma once
#include "core/context.h"
#include "core/rng.h"

namespace scfa {

// Drawn for (seed, step, layer), each round and each head, and normalised. Heads are numbered from first_head on, so
// that a head's directions do not depend on what the heads before it do.
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

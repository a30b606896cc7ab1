// A bias per bucket of a hash, added to its scores before the argmax, that learns to make buckets of one size: after
// each step it rises where the step's tokens were too few in the bucket and falls where they were too many. It
// therefore needs fixed directions; a token's bucket depends on the token and on earlier steps, not on the other tokens
// of its step.
// Loss-free balancing of experts (Wang et al. 2024, arXiv:2408.15664), but with steps in proportion to the logarithm of
// the load: as large as theirs where a load is far from the mean, and smaller near it.
//
// Biases are part of a model, as its parameters are; loads are those of a step, over micro-batches and ranks.
#pragma once
#include "core/context.h"

namespace scfa {

// loads += tokens of each bucket, over all sequences.
//   loads   in/out (heads, buckets) f64, contiguous
//   begin   in (B, H, S + 1) i32: q_begin or k_begin of Segments. S >= buckets, H >= first_head + heads
void add_bucket_loads(Context& ctx, Tensor loads, ConstTensor begin, int64_t first_head);

// bias += rate * clamp(log(mean load / load), -1, 1) for each row, less the row's mean, which changes no argmax. Rows
// without load stay as they are. Deterministic.
//   bias   in/out (rows, buckets) f32      loads  in (rows, buckets) f64      buckets <= 64
void update_bucket_bias(Context& ctx, Tensor bias, ConstTensor loads, float rate);

namespace cpu {
decltype(scfa::add_bucket_loads) add_bucket_loads;
decltype(scfa::update_bucket_bias) update_bucket_bias;
}  // namespace cpu
namespace gpu {
decltype(scfa::add_bucket_loads) add_bucket_loads;
decltype(scfa::update_bucket_bias) update_bucket_bias;
}  // namespace gpu
}  // namespace scfa

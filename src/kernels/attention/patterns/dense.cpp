// All rows in one segment.
#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace {

void assign_dense(Context& ctx, std::span<const Segments> relations, const AttentionPattern& /*pattern*/,
                  const PatternInput& input) {
  for (const Tensor& segment : {relations[0].q_segment, relations[0].k_segment})
    fill_heads(ctx, segment, input.first_head, input.heads, 0);
}

}  // namespace

constexpr PatternDescriptor kDensePattern{
    .name = "dense",
    .attend_self = true,
    .causal = true,
    .fixed = true,
    .segments = [](const AttentionPattern&, int64_t) -> int64_t { return 1; },
    .share_of_pairs = [](const AttentionPattern&, int64_t) { return 1.0; },
    .describe = [](const AttentionPattern&) { return std::string("dense"); },
    .assign = assign_dense,
    .assign_gpu = assign_dense,
};

}  // namespace scfa

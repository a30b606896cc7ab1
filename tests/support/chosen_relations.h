// Checks of what the reformer and blocks patterns chose, by their definitions, on either device.
#pragma once
#include "support/attention_tensors.h"

namespace scfa::test {

// The patterns with parameters that fit short sequences.
AttentionPattern reformer_pattern(int64_t buckets, int64_t rounds, int64_t chunk);
AttentionPattern blocks_pattern(int64_t block, int64_t top_k);

// Draws, assigns and builds. Then checks the ids of all relations.
void choose(Context& ctx, const AttentionTensors& tensors, const PatternDraw& draw = {});
// entry: which one of the layer's patterns it is.
void expect_chunks(const AttentionTensors& tensors, int64_t first_head, const AttentionPattern& pattern,
                   size_t entry = 0);
void expect_best_blocks(const AttentionTensors& tensors, int64_t first_head, const AttentionPattern& pattern);

}  // namespace scfa::test

// What the CPU and the GPU implementation of the Reformer pattern share.
#pragma once
#include <span>

#include "kernels/attention/patterns/assign.h"

namespace scfa {

// Tokens per chunk of a sequence of T; the last chunk may be shorter.
int64_t chunk_length(const AttentionPattern& pattern, int64_t T);

// Pairs of two tokens of one bucket: all of them, and those in the same chunk or in neighbouring ones.
struct BucketPairs {
  double seen = 0, all = 0;
};

// The pairs of one head. sizes: tokens in each bucket. chunk_length: tokens per chunk.
BucketPairs reformer_bucket_pairs(std::span<const int64_t> sizes, int64_t chunk_length);

// Writes each token's bucket of round r to both segments of relation 2 r.
void assign_buckets(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                    const PatternInput& input);

}  // namespace scfa

// Attention patterns. A pattern answers one question: which segment does each query and each key belong to?
//   dense  all in one segment
//   hash   the bucket of a random-projection hash: argmax over [xR, -xR]        arXiv:2306.01160, section 3.3
//   drop   kept rows in one segment, dropped rows in none                       arXiv:2306.01160, section 3.2
// Adding one: a function for the CPU in patterns.cpp, one for the GPU in patterns.cu and a row in the table in
// patterns.cpp.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention/segments.h"

namespace scfa {

struct AttentionPattern {
  std::string pattern = "dense";
  int64_t buckets = 16;             // hash: 1 or an even number up to 64
  double drop_rate = 0.5;           // drop: share of queries and of keys left out, drawn independently
  std::optional<bool> attend_self;  // whether a token sees itself; by default not in hash, as in the paper's code
  int64_t window = 0;  // of the tokens of its segment it sees those less than so many positions back; 0: all
};

std::vector<std::string> pattern_names();
Visibility visibility(const AttentionPattern& pattern);
bool attends_self(const AttentionPattern& pattern);
int64_t segment_count(const AttentionPattern& pattern);
std::string describe(const AttentionPattern& pattern);  // "dense", "hash with 16 buckets", "drop at rate 0.5"
// Expected, of the causal pairs of T tokens; buckets taken as balanced.
double share_of_pairs(const AttentionPattern& pattern, int64_t T);
bool needs_projections(const AttentionPattern& pattern);
void validate(const AttentionPattern& pattern);  // throws Error naming the value and what would be right

// Random directions of the hash, drawn for (seed, step, layer) and each head, normalised.
//   projections  out (H, buckets/2, D) f32
void draw_projections(Context& ctx, Tensor projections, uint64_t seed, uint32_t step, uint32_t layer);

// What a pattern may look at. Row t is at position first_position + t. Drops are drawn for (seed, step, layer, head,
// sample, position), so that they do not depend on the batch.
struct PatternInput {
  ConstTensor q, k;         // (B, T, H, D) before rotation by positions, D contiguous; k empty: keys are the queries
  ConstTensor projections;  // from draw_projections, where needs_projections
  ConstTensor samples;      // (B) i32: which sample of the step each row is
  uint64_t seed;
  uint32_t step, layer;
  int64_t first_position = 0;
};

// Chooses the segment of each query and each key. Where input.k is empty, the hash gives a key its query's bucket.
//   q_segment, k_segment  out (B, H, T) u16
// f32 rows on the CPU, bf16 on the GPU, where the hash needs D to be a multiple of 8 up to 128 and rows aligned to 16
// bytes. Deterministic.
void assign_segments(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                     const PatternInput& input);

// normalise_keys(ctx, keys, inverse_norm, input.q) and then assign_segments; input.k must be empty. Segments are equal
// bit for bit. Keys and norms are too, except with the hash on the GPU: there one kernel reads q once for both and adds
// up squares in another order than normalise_keys, so that norms may differ in the last bits of f32. Profilers show it
// as assign_segments. Deterministic.
//   keys  out (B, T, H, D) contiguous, dtype of q      inverse_norm  out (B, T, H) f32
void assign_segments_and_normalise_keys(Context& ctx, Tensor q_segment, Tensor k_segment, Tensor keys,
                                        Tensor inverse_norm, const AttentionPattern& pattern,
                                        const PatternInput& input);

namespace cpu {
decltype(scfa::draw_projections) draw_projections;
decltype(scfa::assign_segments) assign_segments;
decltype(scfa::assign_segments_and_normalise_keys) assign_segments_and_normalise_keys;
}  // namespace cpu
namespace gpu {
decltype(scfa::draw_projections) draw_projections;
decltype(scfa::assign_segments) assign_dense, assign_hash, assign_drop;             // one per pattern
decltype(scfa::assign_segments_and_normalise_keys) assign_hash_and_normalise_keys;  // 2 buckets or more
}  // namespace gpu
}  // namespace scfa

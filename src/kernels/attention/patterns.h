// Attention patterns. A pattern answers one question: which segment does each query and each key belong to?
//   dense  all in one segment
//   hash   the bucket of a random-projection hash: argmax over [xR, -xR]        arXiv:2306.01160, section 3.3
//   drop   kept rows in one segment, dropped rows in none                       arXiv:2306.01160, section 3.2
// Adding one: a function beside these in patterns.cpp and a row in the table there.
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
};

std::vector<std::string> pattern_names();
bool attends_self(const AttentionPattern& pattern);
int64_t segment_count(const AttentionPattern& pattern);
std::string describe(const AttentionPattern& pattern);   // "dense", "hash with 16 buckets", "drop at rate 0.5"
double share_of_pairs(const AttentionPattern& pattern);  // expected, of the causal pairs; buckets taken as balanced
bool needs_projections(const AttentionPattern& pattern);
void validate(const AttentionPattern& pattern);  // throws Error naming the value and what would be right

// Random directions of the hash, drawn for (seed, step, layer) and each head, normalised.
//   projections  out (H, buckets/2, D) f32
void draw_projections(Context& ctx, Tensor projections, uint64_t seed, uint32_t step, uint32_t layer);

// What a pattern may look at. Positions are first_position + t; drops are drawn for (seed, step, layer, head, sample).
struct PatternInput {
  ConstTensor q, k;         // (B, T, H, D) before any rotation, D contiguous; k empty where keys are the queries
  ConstTensor projections;  // from draw_projections, where needs_projections
  ConstTensor samples;      // (B) i32: which sample of the step each row is
  uint64_t seed;
  uint32_t step, layer;
  int64_t first_position = 0;
};

// Where keys are the normalised queries: outputs of normalise_keys.
struct SharedKeys {
  Tensor keys, inverse_norm;
};

// Writes q_segment and k_segment, (B, H, T) u16. Where input.k is empty the hash gives a key its query's bucket, and
// shared keys, if asked for, are made of q in the same pass over the rows.
void assign_segments(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                     const PatternInput& input, const SharedKeys& shared = {});

namespace cpu {
decltype(scfa::draw_projections) draw_projections;
decltype(scfa::assign_segments) assign_segments;
}  // namespace cpu
namespace gpu {
decltype(scfa::draw_projections) draw_projections;
decltype(scfa::assign_segments) assign_dense, assign_hash, assign_drop;  // a pattern each
}  // namespace gpu
}  // namespace scfa

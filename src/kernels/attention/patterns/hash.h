// What the CPU and the GPU implementation of the hash pattern share.
#pragma once
#include <type_traits>

#include "kernels/attention/patterns/assign.h"
#include "kernels/attention/patterns/hash_balance.h"

namespace scfa {

HashBalance balance_of(const AttentionPattern& pattern);  // throws Error if there is none of the name

// PatternInput::state of a balanced hash, per sequence and head: (rounds, 2, buckets/2) ScoreState, first of queries,
// then of keys that are not the queries.
inline constexpr int64_t kStateElements = sizeof(ScoreState) / sizeof(float);
inline int64_t score_state_offset(const AttentionPattern& pattern, int64_t round, bool of_keys) {
  return (2 * round + (of_keys ? 1 : 0)) * (pattern.buckets / 2);
}
// The biases of the pattern's buckets in a round, (heads, buckets); null: there are none.
inline const float* bucket_bias(const PatternInput& input, int64_t round, bool of_keys) {
  return input.bucket_bias ? input.bucket_bias.select(of_keys).select(round).as<float>() : nullptr;
}

// The (B, H, T) u16 segments that the buckets of rows are written to. Each round has one relation per probe
// (multi-probe LSH, Lv et al. 2007). In the first relation of a round a query is in its best bucket, in the second in
// its second best, and so on; a key is in its best bucket in all of them. So a query and a key share a bucket in at
// most one relation of a round.
struct BucketOutputs {
  uint16_t* q_segment[kMaxProbes] = {};  // get the best bucket, the second best, ...; null: none
  uint16_t* k_segment[kMaxProbes] = {};  // get the best bucket; null: none

  static BucketOutputs of_queries(std::span<const Segments> relations, const AttentionPattern& p, int64_t round) {
    BucketOutputs out;
    for (int64_t probe = 0; probe < p.probes; ++probe)
      out.q_segment[probe] = relations[static_cast<size_t>(round * p.probes + probe)].q_segment.as<uint16_t>();
    return out;
  }
  void add_keys(std::span<const Segments> relations, const AttentionPattern& p, int64_t round) {
    for (int64_t probe = 0; probe < p.probes; ++probe)
      k_segment[probe] = relations[static_cast<size_t>(round * p.probes + probe)].k_segment.as<uint16_t>();
  }

  template <int kProbes>
  SCFA_HOST_DEVICE void write(int64_t at, const BestBuckets<kProbes>& buckets) const {
    for (int probe = 0; probe < kProbes; ++probe)
      if (q_segment[probe] != nullptr) q_segment[probe][at] = buckets.bucket(probe);
    for (uint16_t* of_probe : k_segment)
      if (of_probe != nullptr) of_probe[at] = buckets.bucket(0);
  }
};

// The part of AssignSegments that CPU and GPU share. Calls hash_rows(outputs, rows, whether they are keys, round,
// probes) for the queries, and for keys that are not the queries, of each round. probes: a std::integral_constant, how
// many of the best buckets are written at most.
template <class HashRows>
void assign_rounds(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                   const PatternInput& input, const HashRows& hash_rows) {
  for (int64_t round = 0; round < pattern.rounds; ++round) {
    if (pattern.buckets == 1) {
      const Segments& relation = relations[static_cast<size_t>(round)];
      for (const Tensor& segment : {relation.q_segment, relation.k_segment})
        fill_heads(ctx, segment, input.first_head, input.heads, 0);
      continue;
    }
    BucketOutputs of_queries = BucketOutputs::of_queries(relations, pattern, round), of_keys;
    (input.k ? of_keys : of_queries).add_keys(relations, pattern, round);
    if (pattern.probes == 1)
      hash_rows(of_queries, input.q, false, round, std::integral_constant<int, 1>());
    else
      hash_rows(of_queries, input.q, false, round, std::integral_constant<int, kMaxProbes>());
    if (input.k) hash_rows(of_keys, input.k, true, round, std::integral_constant<int, 1>());
  }
}

// i: the head's number among those of the pattern.
inline ScoreState* score_state(const PatternInput& input, int64_t b, int64_t i) {
  return reinterpret_cast<ScoreState*>(input.state.as<float>() + (b * input.heads + i) * input.state.size(2));
}

// The scratch on the GPU: for all sequences and heads, (directions, stride) int16 scores in fixed point; after these,
// for all sequences and heads, (chunks, directions) int2 sums of scores and of their squares.
struct HashScratch {
  int64_t directions, stride, chunks;  // stride: of the scores of a direction
  HashScratch(int64_t half, int64_t T)
      : directions(half), stride((T + 7) / 8 * 8), chunks((T + kScoreChunk - 1) / kScoreChunk) {}
  int64_t score_elements() const { return directions * stride / 2; }  // of f32
  int64_t elements() const { return score_elements() + chunks * directions * 2; }
};

}  // namespace scfa

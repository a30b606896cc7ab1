// The segments that a pattern chooses, for tests of patterns.
#pragma once
#include <vector>

#include "kernels/attention/patterns/assign.h"
#include "kernels/attention/patterns/projections.h"
#include "support/array.h"

namespace scfa::test {

inline AttentionPattern hash_pattern(int64_t buckets, int64_t rounds = 1, int64_t probes = 1) {
  AttentionPattern pattern;
  pattern.pattern = "hash", pattern.buckets = buckets, pattern.rounds = rounds, pattern.probes = probes;
  return pattern;
}

inline AttentionPattern drop_pattern(double rate) {
  AttentionPattern pattern;
  pattern.pattern = "drop";
  pattern.drop_rate = rate;
  return pattern;
}

// A relation that has ids and no lists.
inline Segments ids_alone(const Tensor& q_segment, const Tensor& k_segment) {
  Segments relation;
  relation.q_segment = q_segment, relation.k_segment = k_segment;
  return relation;
}

// What assign_segments may look at, with defaults. samples: 0, 1, 2, ... where empty.
struct Draw {
  ConstTensor q = {}, k = {};
  std::vector<int32_t> samples = {};
  uint64_t seed = 1;
  uint32_t step = 2, layer = 3;
  int64_t first_position = 0;
};

// Segments of queries and keys, (B, H, T) u16.
struct ChosenSegments {
  Array q, k, projections;
  ChosenSegments(const AttentionPattern& pattern, const Draw& draw);
};

}  // namespace scfa::test

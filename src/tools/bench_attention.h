// Times of attention by pattern: preparation (projections, hash, sort), forward and backward.
#pragma once
#include <string>
#include <vector>

#include "kernels/attention/patterns.h"

namespace scfa {

struct AttentionCase {
  AttentionPattern pattern;
  int64_t T = 8192, batch = 1, heads = 4, head_dim = 64;
};

struct AttentionTimes {  // milliseconds, medians
  double prepare = 0, forward = 0, backward = 0;
  double pairs = 0;  // query-key pairs attended, over all heads
  double total() const { return prepare + forward + backward; }
};

AttentionTimes time_attention(const AttentionCase& settings, int repeats);

// Runs dense, hash and drop at each length, prints a table and, if csv is not empty, writes it there too.
void bench_attention(const std::vector<int64_t>& lengths, const AttentionCase& shape, int repeats,
                     const std::string& csv);

}  // namespace scfa

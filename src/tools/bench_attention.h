// Times of attention by pattern: preparation (projections, normalising, hash, sort), forward and backward.
#pragma once
#include <string>
#include <vector>

#include "kernels/attention/patterns.h"
#include "tools/bench_timer.h"

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

// Each run has other random data and starts from cold caches.
AttentionTimes time_attention(Context& ctx, const CacheFlush& flush, const AttentionCase& settings, int repeats);

double count_pairs(Context& ctx, const Segments& segments);  // of queries and keys they see

// Runs dense, hash and drop at each length, prints a table and, if csv is not empty, writes it there too.
void bench_attention(Context& ctx, const std::vector<int64_t>& lengths, const AttentionCase& shape, int repeats,
                     const std::string& csv);

}  // namespace scfa

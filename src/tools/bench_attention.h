// Times of attention by pattern: preparation (projections, normalising, hash, sort), forward and backward.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "kernels/attention/operands.h"
#include "tools/bench_timer.h"

namespace scfa {

struct AttentionCase {
  AttentionProblem problem{.shape = {.B = 1, .T = 8192, .H = 4, .D = 64}, .layout = AttentionLayout::kSharedQk};
  double skew = 0;  // share of the rows that one segment has; the others have the rest, evenly; 0: as the pattern says
};

struct AttentionTimes {  // milliseconds, medians
  double prepare = 0, forward = 0, backward = 0;
  double pairs = 0;  // query-key pairs attended, over all heads
  double total() const { return prepare + forward + backward; }
};

// Each run has other random data and starts from cold caches.
AttentionTimes time_attention(Context& ctx, const CacheFlush& flush, const AttentionCase& settings, int repeats);

double all_pairs(Context& ctx, std::span<const Segments> relations);  // of queries and keys they see, over all heads

// Runs the rows of the table with these names (none: all that the shape can have) at each length, prints it and, if csv
// is not empty, writes it there too.
void bench_attention(Context& ctx, const std::vector<int64_t>& lengths, const AttentionCase& shape, int repeats,
                     const std::vector<std::string>& names, const std::string& csv);

}  // namespace scfa

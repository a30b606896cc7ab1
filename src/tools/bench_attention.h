// Times of attention by pattern: preparation (projections, normalising, hash, sort), forward and backward.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "kernels/attention/operands.h"
#include "kernels/attention/patterns/reformer.h"
#include "tools/bench_inputs.h"
#include "tools/bench_timer.h"

namespace scfa {

struct AttentionCase {
  AttentionProblem problem{.shape = {.B = 1, .T = 8192, .H = 4, .D = 64}, .layout = AttentionLayout::kSharedQk};
  double skew = 0;  // share of the rows that one segment has; the others have the rest, evenly; 0: as the pattern says
};

struct AttentionTimes {  // milliseconds: medians of all runs; with inputs of a trained model means over its layers
  double prepare = 0, forward = 0, backward = 0, total = 0;
  double low = 0, high = 0;  // the 20th and the 80th percentile of the totals
  double pairs = 0;          // query-key pairs attended, over all heads
  BucketPairs bucket_pairs;  // of Reformer: which pairs of one bucket its chunks see
};

// Each run has other random data and starts from cold caches. trained: instead of random data the inputs of a model's
// layers, in turn, `repeats` times each.
AttentionTimes time_attention(Context& ctx, const CacheFlush& flush, const AttentionCase& settings, int repeats,
                              const TrainedInputs* trained = nullptr);

double all_pairs(Context& ctx, std::span<const Segments> relations);  // of queries and keys they see, over all heads

struct AttentionTable {
  std::vector<int64_t> lengths;
  AttentionCase shape;  // of each row, but for T
  int repeats = 5;
  std::vector<std::string> names;  // rows; none: all that the shape can have
  std::vector<int64_t> buckets;    // of hash, hash_balanced and reformer; none: 8, 16, 32 of hash, 16 of the others
  std::vector<double> drop_rates;  // none: 0.5, 0.7
  std::string checkpoint, data;    // trained_inputs, of as many sequences as the shape has; none: random
  std::string csv;
};

// Times each row at each length, prints the table and, if csv is not empty, writes it there too.
void bench_attention(Context& ctx, const AttentionTable& table);

}  // namespace scfa

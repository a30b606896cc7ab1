// Times of attention by pattern: preparation (projections, normalising, hash, sort), forward and backward.
#pragma once
#include <string>
#include <vector>

#include "kernels/attention/patterns.h"
#include "model/activations.h"
#include "tools/bench_timer.h"

namespace scfa {

struct AttentionCase {
  AttentionPattern pattern;
  int64_t T = 8192, batch = 1, heads = 4, head_dim = 64;
  bool shared = true;  // keys are the normalised queries
  double skew = 0;  // share of the rows that one segment has; the others have the rest, evenly; 0: as the pattern says
};

// Operands of the ops around attention, as the product left them: queries, keys and values, or, where `shared`, queries
// and values, and keys are the normalised queries.
struct AttentionOperands {
  AttentionCase shape;
  float scale;  // of scores
  Tensor qkv, keys, inverse_norm, out, lse, dout, dqkv, dkeys, projections, samples, scratch;
  Segments segments;

  AttentionOperands(Arena& arena, const Context& ctx, const AttentionCase& shape);
  Tensor q() const { return qkv_part(qkv, 0); }
  Tensor k() const { return shape.shared ? keys : qkv_part(qkv, 1); }
  Tensor v() const { return qkv_part(qkv, shape.shared ? 1 : 2); }
  Tensor dq() const { return qkv_part(dqkv, 0); }
  Tensor dk() const { return shape.shared ? dkeys : qkv_part(dqkv, 1); }
  Tensor dv() const { return qkv_part(dqkv, shape.shared ? 1 : 2); }
  void assign(Context& ctx, uint32_t step) const;  // segments, and the keys where they are shared
  void build(Context& ctx) const;
  void forward(Context& ctx) const;
  void backward(Context& ctx) const;
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

// The bucket of a random-projection hash, argmax over [xR, -xR]: Pagliardini et al. 2023, arXiv:2306.01160, section
// 3.3. Each round hashes with directions of its own, and has a relation for each probe. Balanced buckets:
// hash_balance.h.
#include "kernels/attention/patterns/hash.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace gpu {
AssignSegments assign_hash;
AssignSegmentsAndNormaliseKeys assign_hash_and_normalise_keys;
}  // namespace gpu

namespace {

float dot(const float* a, const float* b, int64_t D) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < D; ++d) sum += a[d] * b[d];
  return sum;
}

float inverse_norm(const float* row, int64_t D) {
  return 1.0f / std::max(std::sqrt(dot(row, row, D)), 1e-12f);
}

// The biases of head i, of those of all heads or null.
const float* of_head(const float* bias, int64_t i, int64_t buckets) {
  return bias == nullptr ? nullptr : bias + i * buckets;
}

// The buckets of the largest of [y, -y], y = x R, or of [z, -z] + bias, z = y sqrt(D) / |x|.
//   x           may have fewer heads than the segments, each that of several consecutive ones
//   directions  (heads, half, D)
//   bias        (heads, 2 half), or null
template <int kProbes>
void hash_rows(const BucketOutputs& out, const ConstTensor& x, const ConstTensor& directions, const float* bias,
               const PatternInput& input) {
  const int64_t B = x.size(0), T = x.size(1), H = input.q.size(2), D = x.size(3), half = directions.size(1);
  const int64_t group = H / x.size(2);
  const float* in = x.as<float>();
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < input.heads; ++i)
      for (int64_t t = 0; t < T; ++t) {
        const int64_t h = input.first_head + i;
        const float* row = in + b * x.stride[0] + t * x.stride[1] + h / group * x.stride[2];
        const float scale = bias == nullptr ? 1.0f : std::sqrt(static_cast<float>(D)) * inverse_norm(row, D);
        BestBuckets<kProbes> best;
        for (int64_t c = 0; c < half; ++c)
          best.offer(scale * dot(row, directions.as<float>() + (i * half + c) * D, D), static_cast<int>(c),
                     static_cast<int>(half), of_head(bias, i, 2 * half));
        out.write((b * H + h) * T + t, best);
      }
}

// As hash_rows, with standardised scores (hash_balance.h), for one head of one sequence.
//   first  index of the head's first row in the (B, H, T) segments
//   in     the head's rows, `stride` elements apart
//   bias   (2 half), or null
//   state  in/out (half)
template <int kProbes>
void hash_head_balanced(const BucketOutputs& out, int64_t first, const float* in, int64_t stride,
                        const float* directions, int64_t half, HashBalance balance, const float* bias,
                        ScoreState* state, const PatternInput& input) {
  const int64_t T = input.q.size(1), D = input.q.size(3);
  std::vector<ScoreStatistics> statistics(static_cast<size_t>(half));
  for (int64_t t = 0; t < T; ++t) {
    const int64_t position = input.first_position + t, rows = statistics_rows(position);
    if (position == rows)  // a chunk begins
      for (int64_t c = 0; c < half; ++c) {
        if (position == 0) state[c] = {};
        state[c].before = state[c].all;
      }
    if (position == rows || t == 0)
      for (int64_t c = 0; c < half; ++c)
        statistics[static_cast<size_t>(c)] = score_statistics(state[c].before, rows, D, balance);
    const float* row = in + t * stride;
    const float scale = inverse_norm(row, D);
    BestBuckets<kProbes> best;
    for (int64_t c = 0; c < half; ++c) {
      const int score = fixed_point(dot(row, directions + c * D, D) * scale);
      best.offer(standardised(score, statistics[static_cast<size_t>(c)]), static_cast<int>(c), static_cast<int>(half),
                 bias);
      state[c].all.add(score);
    }
    out.write(first + t, best);
  }
}

// state: of this round and of q or k; see hash.h.
template <int kProbes>
void hash_rows_balanced(const BucketOutputs& out, const ConstTensor& x, const ConstTensor& directions,
                        const float* bias, int64_t state, HashBalance balance, const PatternInput& input) {
  const int64_t B = x.size(0), T = x.size(1), H = input.q.size(2), half = directions.size(1), group = H / x.size(2);
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < input.heads; ++i) {
      const int64_t h = input.first_head + i;
      hash_head_balanced<kProbes>(out, (b * H + h) * T, x.as<float>() + b * x.stride[0] + h / group * x.stride[2],
                                  x.stride[1], directions.as<float>() + i * half * x.size(3), half, balance,
                                  of_head(bias, i, 2 * half), score_state(input, b, i) + state, input);
    }
}

bool has_directions(const AttentionPattern& pattern) {
  return pattern.buckets > 1;
}

void assign_hash(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  const HashBalance balance = balance_of(pattern);
  assign_rounds(ctx, relations, pattern, input,
                [&](const BucketOutputs& out, const ConstTensor& x, bool of_keys, int64_t round, auto probes) {
                  const ConstTensor directions = input.projections.select(round);
                  const float* bias = bucket_bias(input, round, of_keys);
                  if (balance == HashBalance::kNone)
                    hash_rows<probes>(out, x, directions, bias, input);
                  else
                    hash_rows_balanced<probes>(out, x, directions, bias, score_state_offset(pattern, round, of_keys),
                                               balance, input);
                });
}

void validate_hash(const AttentionPattern& p) {
  require(p.buckets == 1 || (p.buckets >= 2 && p.buckets <= 64 && p.buckets % 2 == 0),
          "attention.buckets: must be 1 or an even number up to 64, not ", p.buckets);
  balance_of(p);
  require(p.rounds >= 1 && p.rounds <= kMaxRounds, "attention.rounds: must be 1 to ", kMaxRounds, ", not ", p.rounds);
  const int64_t most = std::clamp<int64_t>(p.buckets / 2, 1, kMaxProbes);
  require(p.probes >= 1 && p.probes <= most, "attention.probes: must be 1", most > 1 ? concat(" to ", most) : "",
          " with ", p.buckets, p.buckets > 1 ? " buckets" : " bucket", ", not ", p.probes);
  require(p.rounds * p.probes <= kMaxRelations, "attention.probes: rounds times probes must be ", kMaxRelations,
          " or less, not ", p.rounds * p.probes);
}

std::string describe_hash(const AttentionPattern& p) {
  return concat("hash with ", p.buckets, " buckets", p.rounds > 1 ? concat(" in ", p.rounds, " rounds") : "",
                p.probes > 1 ? concat(" and ", p.probes, " probes") : "",
                p.balance == "none" && p.bias_rate == 0 ? "" : ", balanced by ", p.balance == "none" ? "" : p.balance,
                p.balance != "none" && p.bias_rate > 0 ? " and " : "", p.bias_rate > 0 ? "a learned bias" : "",
                p.fixed_directions ? ", fixed directions" : "");
}

bool is_balanced(const AttentionPattern& p) {
  return has_directions(p) && p.balance != "none";
}

}  // namespace

HashBalance balance_of(const AttentionPattern& p) {
  if (p.balance == "none" || p.buckets == 1) return HashBalance::kNone;
  if (p.balance == "mean") return HashBalance::kMean;
  require(p.balance == "prefix", "attention.balance: must be none, mean or prefix, not \"", p.balance, "\"");
  return HashBalance::kPrefix;
}

constexpr PatternDescriptor kHashPattern{
    .name = "hash",
    .parameters = {"buckets", "rounds", "probes", "balance", "bias_rate", "fixed_directions"},
    .attend_self = false,  // as in the paper's code
    .causal = true,
    .segments = [](const AttentionPattern& p, int64_t) { return p.buckets; },
    .relations = [](const AttentionPattern& p) { return p.rounds * p.probes; },
    .share_of_pairs = [](const AttentionPattern& p,
                         int64_t) { return static_cast<double>(p.rounds * p.probes) / static_cast<double>(p.buckets); },
    .describe = describe_hash,
    .needs_projections = has_directions,
    .learns_bucket_bias = [](const AttentionPattern& p) { return has_directions(p) && p.bias_rate > 0; },
    .state_elements =
        [](const AttentionPattern& p, int64_t, int64_t) {
          return is_balanced(p) ? score_state_offset(p, p.rounds, false) * kStateElements : 0;
        },
    .scratch_elements =
        [](const AttentionPattern& p, int64_t B, int64_t heads, int64_t T) {
          return is_balanced(p) ? B * heads * HashScratch(p.buckets / 2, T).elements() : 0;
        },
    .validate = validate_hash,
    .assign = assign_hash,
    .assign_gpu = gpu_implementation<gpu::assign_hash>(),
    .assign_and_normalise_gpu = gpu_implementation<gpu::assign_hash_and_normalise_keys>(),
};

}  // namespace scfa

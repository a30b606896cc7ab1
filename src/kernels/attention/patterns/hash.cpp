// The bucket of a random-projection hash, argmax over [xR, -xR]: Pagliardini et al. 2023, arXiv:2306.01160, section
// 3.3. Each round hashes with directions of its own, and is a relation.
#include <algorithm>
#include <cmath>

#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace gpu {
AssignSegments assign_hash;
AssignSegmentsAndNormaliseKeys assign_hash_and_normalise_keys;
}  // namespace gpu

namespace {

// bucket = argmax of [y, -y], y = x R: the index of the largest |y|, plus half where y is negative. Ties go to the
// lowest index.
//   segment     (B, H, T); x may have fewer heads, each that of several consecutive ones of the segment
//   directions  (heads, half, D)
void hash_rows(const Tensor& segment, const ConstTensor& x, const ConstTensor& directions, const PatternInput& input) {
  const int64_t B = x.size(0), T = x.size(1), H = segment.size(1), D = x.size(3), half = directions.size(1);
  const int64_t group = H / x.size(2);
  const float* in = x.as<float>();
  uint16_t* out = segment.as<uint16_t>();
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < input.heads; ++i)
      for (int64_t t = 0; t < T; ++t) {
        const int64_t h = input.first_head + i;
        const float* row = in + b * x.stride[0] + t * x.stride[1] + h / group * x.stride[2];
        float best = -1.0f;
        int64_t bucket = 0;
        for (int64_t c = 0; c < half; ++c) {
          const float* direction = directions.as<float>() + (i * half + c) * D;
          float y = 0.0f;
#pragma omp simd reduction(+ : y)
          for (int64_t d = 0; d < D; ++d) y += row[d] * direction[d];
          if (std::fabs(y) > best) {
            best = std::fabs(y);
            bucket = y < 0.0f ? c + half : c;
          }
        }
        out[(b * H + h) * T + t] = static_cast<uint16_t>(bucket);
      }
}

// k_segment = q_segment in the pattern's heads.
void copy_rows(const Segments& relation, const PatternInput& input) {
  const int64_t B = relation.q_segment.size(0), H = relation.q_segment.size(1), T = relation.q_segment.size(2);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t first = (b * H + input.first_head) * T;
    std::copy_n(relation.q_segment.as<uint16_t>() + first, input.heads * T, relation.k_segment.as<uint16_t>() + first);
  }
}

bool has_directions(const AttentionPattern& pattern) {
  return pattern.buckets > 1;
}

void assign_hash(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  for (int64_t round = 0; round < pattern.rounds; ++round) {
    const Segments& relation = relations[static_cast<size_t>(round)];
    if (!has_directions(pattern)) {
      for (const Tensor& segment : {relation.q_segment, relation.k_segment})
        fill_heads(ctx, segment, input.first_head, input.heads, 0);
      continue;
    }
    const ConstTensor directions = input.projections.select(round);
    hash_rows(relation.q_segment, input.q, directions, input);
    if (input.k)
      hash_rows(relation.k_segment, input.k, directions, input);
    else
      copy_rows(relation, input);
  }
}

void validate_hash(const AttentionPattern& p) {
  require(p.buckets == 1 || (p.buckets >= 2 && p.buckets <= 64 && p.buckets % 2 == 0),
          "attention.buckets: must be 1 or an even number up to 64, not ", p.buckets);
  require(p.rounds >= 1 && p.rounds <= kMaxRounds, "attention.rounds: must be 1 to ", kMaxRounds, ", not ", p.rounds);
}

std::string describe_hash(const AttentionPattern& p) {
  return concat("hash with ", p.buckets, " buckets", p.rounds > 1 ? concat(" in ", p.rounds, " rounds") : "");
}

}  // namespace

constexpr PatternDescriptor kHashPattern{
    .name = "hash",
    .attend_self = false,  // as in the paper's code
    .causal = true,
    .segments = [](const AttentionPattern& p, int64_t) { return p.buckets; },
    .relations = [](const AttentionPattern& p) { return p.rounds; },
    .share_of_pairs = [](const AttentionPattern& p,
                         int64_t) { return static_cast<double>(p.rounds) / static_cast<double>(p.buckets); },
    .describe = describe_hash,
    .needs_projections = has_directions,
    .validate = validate_hash,
    .assign = assign_hash,
    .assign_gpu = gpu_form<gpu::assign_hash>(),
    .assign_and_normalise_gpu = gpu_form<gpu::assign_hash_and_normalise_keys>(),
};

}  // namespace scfa

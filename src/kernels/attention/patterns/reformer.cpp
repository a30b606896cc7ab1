// Chunks of the order sorted by bucket: Kitaev et al. 2020, arXiv:2001.04451. Tokens are sorted by their bucket, then
// by position, and cut into chunks of equal length; a token sees the earlier tokens of its own chunk and of the one
// before. Each round hashes with directions of its own and has two relations: own chunk, previous chunk. Where chunks
// end depends on how many tokens there are in each bucket, later ones included.
#include "kernels/attention/patterns/reformer.h"

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace gpu {
AssignSegments assign_reformer;
}

void assign_buckets(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                    const PatternInput& input) {
  require(!input.k, "attention.pattern: reformer sorts tokens and not queries and keys apart; set model.shared_qk");
  std::vector<Segments> own;
  for (int64_t round = 0; round < pattern.rounds; ++round) own.push_back(relations[static_cast<size_t>(2 * round)]);
  (ctx.on_gpu() ? kHashPattern.assign_gpu : kHashPattern.assign)(ctx, own, pattern, input);
}

namespace {

int64_t chunk_count(const AttentionPattern& p, int64_t T) {
  const int64_t length = chunk_length(p, T);
  return (T + length - 1) / length;
}

void assign_reformer(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                     const PatternInput& input) {
  assign_buckets(ctx, relations, pattern, input);
  const int64_t B = input.q.size(0), T = input.q.size(1), H = input.q.size(2);
  const int64_t length = chunk_length(pattern, T), chunks = chunk_count(pattern, T);
#pragma omp parallel for collapse(3)
  for (int64_t round = 0; round < pattern.rounds; ++round)
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < input.heads; ++i) {
        const Segments &own = relations[static_cast<size_t>(2 * round)],
                       &previous = relations[static_cast<size_t>(2 * round + 1)];
        const int64_t first = (b * H + input.first_head + i) * T;
        const auto ids = [&](const Tensor& segment) { return segment.as<uint16_t>() + first; };
        const std::vector<uint16_t> buckets(ids(own.q_segment), ids(own.q_segment) + T);
        std::array<int64_t, 65> place{};  // where each bucket's next token goes in the sorted order
        for (const uint16_t bucket : buckets) ++place[bucket + 1u];
        for (size_t bucket = 1; bucket < place.size(); ++bucket) place[bucket] += place[bucket - 1];
        for (int64_t t = 0; t < T; ++t) {
          const auto chunk = static_cast<uint16_t>(place[buckets[static_cast<size_t>(t)]]++ / length);
          ids(own.q_segment)[t] = ids(own.k_segment)[t] = chunk;
          ids(previous.q_segment)[t] = chunk > 0 ? chunk : kNoSegment;
          ids(previous.k_segment)[t] = chunk + 1 < chunks ? static_cast<uint16_t>(chunk + 1) : kNoSegment;
        }
      }
}

void validate_reformer(const AttentionPattern& p) {
  require(p.buckets >= 2 && p.buckets <= 64 && p.buckets % 2 == 0,
          "attention.buckets: must be an even number from 2 to ", "64 for reformer, not ", p.buckets);
  require(p.rounds >= 1 && 2 * p.rounds <= kMaxRelations, "attention.rounds: must be 1 to ", kMaxRelations / 2,
          " for reformer, not ", p.rounds);
  require(p.chunk >= 0 && p.chunk <= kMaxBlock, "attention.chunk: must be 0 to ", kMaxBlock, ", not ", p.chunk);
}

std::string describe_reformer(const AttentionPattern& p) {
  return concat("reformer with ", p.buckets, " buckets", p.chunk > 0 ? concat(" in chunks of ", p.chunk) : "",
                p.rounds > 1 ? concat(", ", p.rounds, " rounds") : "", p.fixed_directions ? ", fixed directions" : "",
                " (where chunks end depends on later tokens: for comparison only)");
}

// On average a token sees half of its own chunk, and half of the previous one, where positions are taken as independent
// of the token's own.
double share_of_reformer(const AttentionPattern& p, int64_t T) {
  const auto length = static_cast<double>(std::min(chunk_length(p, T), T));
  return std::min(1.0, 2 * length / static_cast<double>(T)) * static_cast<double>(p.rounds);
}

}  // namespace

int64_t chunk_length(const AttentionPattern& p, int64_t T) {
  return p.chunk > 0 ? p.chunk : (T + p.buckets - 1) / p.buckets;
}

// A bucket is a range of the sorted order, so sizes say where its tokens are.
BucketPairs reformer_bucket_pairs(std::span<const int64_t> sizes, int64_t length) {
  BucketPairs pairs;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    const int64_t end = begin + size;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t reach = (i / length + 2) * length;  // the end of the next chunk
      pairs.seen += static_cast<double>(std::min(end, reach) - i - 1);
      pairs.all += static_cast<double>(end - i - 1);
    }
    begin = end;
  }
  return pairs;
}

constexpr PatternDescriptor kReformerPattern{
    .name = "reformer",
    .parameters = {"buckets", "rounds", "chunk", "fixed_directions"},
    .attend_self = false,
    .causal = false,
    // Buckets are segments until chunks are made of them.
    .segments = [](const AttentionPattern& p, int64_t T) { return std::max(p.buckets, chunk_count(p, T)); },
    .relations = [](const AttentionPattern& p) { return 2 * p.rounds; },
    .share_of_pairs = share_of_reformer,
    .describe = describe_reformer,
    .needs_projections = [](const AttentionPattern&) { return true; },
    .shares_keys = true,
    .validate = validate_reformer,
    .assign = assign_reformer,
    .assign_gpu = gpu_implementation<gpu::assign_reformer>(),
};

}  // namespace scfa

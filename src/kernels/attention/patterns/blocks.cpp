// The best key blocks of each query: MoBA, Lu et al. 2025, arXiv:2502.13189. The sequence is cut into blocks of equal
// length. A query sees its own block up to itself, and of the complete blocks before it those top_k - 1 whose mean key
// has the highest product with it. Relation 0 has the own block, relation r the r-th best. Blocks are chosen by keys
// before rotation by positions.
#include <algorithm>

#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/patterns/top_k.h"

namespace scfa {

namespace gpu {
AssignSegments assign_blocks;
}

namespace {

int64_t block_count(const AttentionPattern& p, int64_t T) {
  return (T + p.block - 1) / p.block;
}

// One head of one sequence. sums: (blocks, D), sums of keys, of which those of the blocks before first_position are
// there.
void choose_blocks(std::span<const Segments> relations, const AttentionPattern& pattern, const PatternInput& input,
                   float* sums, int64_t b, int64_t h) {
  const int64_t T = input.q.size(1), H = input.q.size(2), D = input.q.size(3), group = H / input.k.size(2);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t position = input.first_position + t, own = position / pattern.block;
    const float* q = input.q.as<float>() + b * input.q.stride[0] + t * input.q.stride[1] + h * input.q.stride[2];
    const float* k =
        input.k.as<float>() + b * input.k.stride[0] + t * input.k.stride[1] + h / group * input.k.stride[2];
    for (int64_t d = 0; d < D; ++d) sums[own * D + d] = position % pattern.block == 0 ? k[d] : sums[own * D + d] + k[d];
    TopK<kMaxRelations - 1> best(kNoSegment);
    for (int64_t block = 0; block < own; ++block) {
      float product = 0.0f;
#pragma omp simd reduction(+ : product)
      for (int64_t d = 0; d < D; ++d) product += q[d] * sums[block * D + d];
      best.offer(product, static_cast<int>(block), static_cast<int>(pattern.top_k - 1));
    }
    const int64_t at = (b * H + h) * T + t;
    for (size_t r = 0; r < static_cast<size_t>(pattern.top_k); ++r) {
      relations[r].q_segment.as<uint16_t>()[at] = static_cast<uint16_t>(r == 0 ? own : best.id[r - 1]);
      relations[r].k_segment.as<uint16_t>()[at] = static_cast<uint16_t>(own);
    }
  }
}

void assign_blocks(Context& /*ctx*/, std::span<const Segments> relations, const AttentionPattern& pattern,
                   const PatternInput& input) {
  const int64_t B = input.q.size(0);
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i < input.heads; ++i) {
      const int64_t elements = input.state.size(2);
      choose_blocks(relations, pattern, input, input.state.as<float>() + (b * input.heads + i) * elements, b,
                    input.first_head + i);
    }
}

// Queries of block i see their own block, half of it on average, and of the i before it top_k - 1.
double share_of_blocks(const AttentionPattern& p, int64_t T) {
  double pairs = 0;
  for (int64_t first = 0, before = 0; first < T; first += p.block, ++before) {
    const auto rows = static_cast<double>(std::min(p.block, T - first));
    pairs += rows * ((rows + 1) / 2 + static_cast<double>(std::min(before, p.top_k - 1) * p.block));
  }
  return pairs / (static_cast<double>(T) * static_cast<double>(T + 1) / 2);
}

void validate_blocks(const AttentionPattern& p) {
  require(p.block >= 1 && p.block <= kMaxBlock, "attention.block: must be 1 to ", kMaxBlock, ", not ", p.block);
  require(p.top_k >= 1 && p.top_k <= kMaxRelations, "attention.top_k: must be 1 to ", kMaxRelations, ", not ", p.top_k);
}

}  // namespace

constexpr PatternDescriptor kBlocksPattern{
    .name = "blocks",
    .parameters = {"block", "top_k"},
    .attend_self = true,
    .causal = true,
    .segments = block_count,
    .relations = [](const AttentionPattern& p) { return p.top_k; },
    .share_of_pairs = share_of_blocks,
    .describe = [](const AttentionPattern& p) { return concat("best ", p.top_k, " blocks of ", p.block); },
    .reads_keys = true,
    .state_elements = [](const AttentionPattern& p, int64_t positions,
                         int64_t D) { return block_count(p, positions) * D; },
    .validate = validate_blocks,
    .assign = assign_blocks,
    .assign_gpu = gpu_implementation<gpu::assign_blocks>(),
};

}  // namespace scfa

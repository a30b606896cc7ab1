#include "kernels/attention/layer_attention.h"

#include <algorithm>

#include "core/rng.h"
#include "kernels/attention/normalise.h"
#include "kernels/attention/patterns/bucket_bias.h"
#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/patterns/projections.h"

namespace scfa {

namespace {

// Calls work(i, first head) for each pattern.
template <class Work>
void for_each_pattern(const HeadPatterns& patterns, const Work& work) {
  int64_t first_head = 0;
  for (size_t i = 0; i < patterns.size(); ++i) {
    work(i, first_head);
    first_head += patterns[i].heads;
  }
}

}  // namespace

LayerSegments LayerSegments::plan(Arena& arena, const HeadPatterns& patterns, int64_t B, int64_t H, int64_t T,
                                  int64_t D, int64_t positions, bool documents, int64_t segments, int64_t relations) {
  LayerSegments layer;
  layer.patterns = for_heads(patterns, H);
  for (const AttentionPattern& pattern : layer.patterns)
    layer.projections.push_back(
        needs_projections(pattern)
            ? arena.take("segments", DType::kF32, {pattern.rounds, pattern.heads, pattern.buckets / 2, D})
            : Tensor());
  for (const AttentionPattern& pattern : layer.patterns) {
    const auto state_elements = descriptor_of(pattern).state_elements;
    const int64_t elements = state_elements == nullptr ? 0 : state_elements(pattern, std::max(T, positions), D);
    layer.states.push_back(elements == 0 ? Tensor()
                                         : arena.take("segments", DType::kF32, {B, pattern.heads, elements}));
  }
  layer.bucket_biases.resize(layer.patterns.size());
  layer.bucket_loads.resize(layer.patterns.size());
  const int64_t count = std::max(segments, segment_count(patterns, T));
  for (int64_t r = 0; r < std::max(relations, relation_count(patterns)); ++r) {
    const std::vector<Visibility> by_head = visibility(patterns, r);
    const bool ranges = documents || std::any_of(by_head.begin(), by_head.end(),
                                                 [](const Visibility& visibility) { return visibility.window > 0; });
    layer.relations.push_back(plan_segments(arena, B, H, T, D, count, ranges));
  }
  return layer;
}

LayerSegments LayerSegments::for_later_layer() const {
  require(is_fixed(patterns), "for_later_layer: the segments of ", describe(patterns), " differ from layer to layer");
  LayerSegments later = *this;
  later.filled_before = true;
  return later;
}

int64_t LayerSegments::assign_scratch(const Context& ctx) const {
  int64_t most = 0;
  for (const AttentionPattern& pattern : patterns)
    most = std::max(most, scfa::assign_scratch(ctx, pattern, relations[0].q_segment.size(0), pattern.heads,
                                               relations[0].q_segment.size(2)));
  return most;
}

void LayerSegments::draw(Context& ctx, uint64_t seed, RandomStep step, uint32_t layer) const {
  for_each_pattern(patterns, [&](size_t i, int64_t first_head) {
    if (!needs_projections(patterns[i])) return;
    draw_projections(ctx, projections[i], seed, has_fixed_directions(patterns[i]) ? kEvaluationStep : step, layer,
                     first_head);
  });
}

PatternInput LayerSegments::of_pattern(PatternInput input, size_t i) const {
  input.projections = projections[i];
  input.state = states[i];
  input.bucket_bias = bucket_biases[i];
  return input;
}

void LayerSegments::assign_each(Context& ctx, const PatternInput& input, ConstTensor keys) const {
  for_each_pattern(patterns, [&](size_t i, int64_t first_head) {
    PatternInput its = of_pattern(input, i);
    its.first_head = first_head;
    its.heads = patterns[i].heads;
    if (keys && descriptor_of(patterns[i]).reads_keys) its.k = keys;
    assign_segments(ctx, relations, patterns[i], its);
  });
}

void LayerSegments::assign(Context& ctx, const PatternInput& input) const {
  if (!filled_before) assign_each(ctx, input, {});
}

void LayerSegments::assign_and_normalise_keys(Context& ctx, Tensor keys, Tensor inverse_norm,
                                              const PatternInput& input) const {
  if (filled_before) return normalise_keys(ctx, keys, inverse_norm, input.q);
  if (patterns.size() == 1)
    return assign_segments_and_normalise_keys(ctx, relations, keys, inverse_norm, patterns[0], of_pattern(input, 0));
  normalise_keys(ctx, keys, inverse_norm, input.q);
  assign_each(ctx, input, keys);
}

void LayerSegments::build(Context& ctx, ConstTensor document_start) const {
  if (filled_before) return;
  for (size_t r = 0; r < relations.size(); ++r)
    build_segments(ctx, relations[r], visibility(patterns, static_cast<int64_t>(r)), document_start);
}

void LayerSegments::add_bucket_loads(Context& ctx) const {
  for_each_pattern(patterns, [&](size_t i, int64_t first_head) {
    const Tensor& loads = bucket_loads[i];
    if (!loads) return;
    for (int64_t side = 0; side < loads.size(0); ++side)
      for (int64_t round = 0; round < loads.size(1); ++round) {
        const Segments& relation = relations[static_cast<size_t>(round * patterns[i].probes)];  // of best buckets
        scfa::add_bucket_loads(ctx, loads.select(side).select(round), side == 0 ? relation.q_begin : relation.k_begin,
                               first_head);
      }
  });
}

void LayerSegments::update_bucket_biases(Context& ctx) const {
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (!bucket_loads[i]) continue;
    const int64_t buckets = patterns[i].buckets, rows = bucket_loads[i].numel() / buckets;
    update_bucket_bias(ctx, bucket_biases[i].reshape({rows, buckets}), bucket_loads[i].reshape({rows, buckets}),
                       static_cast<float>(patterns[i].bias_rate));
  }
}

}  // namespace scfa

// The segments of one layer of attention: a relation or several, chosen by the pattern of each head. Models, the
// decoder and programs that run attention alone plan and fill them in the same way.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/attention/patterns/assign.h"
#include "kernels/attention/patterns/pattern.h"
#include "kernels/attention/segments.h"

namespace scfa {

struct LayerSegments {
  HeadPatterns patterns;            // with the number of heads of each
  std::vector<Segments> relations;  // as many as the pattern with the most; heads that have fewer are in no segment
  std::vector<Tensor> projections;  // of each pattern: (rounds, heads, buckets/2, D) f32, or empty
  std::vector<Tensor> states;       // of each pattern: (B, heads, elements) f32, or empty

  // Of each pattern that learns a bias per bucket, else empty; plan() leaves them empty, since they outlive a pass.
  std::vector<Tensor> bucket_biases, bucket_loads;  // (1 or 2, rounds, heads, buckets) f32 and f64: see bucket_bias.h

  bool filled_before = false;  // an earlier layer owns and fills these tensors; assign and build do nothing

  // positions: the most tokens of a sequence that is given in several calls (generation); less than T means T.
  // documents: build gets a document_start. segments, relations: how many there are at least, for callers that fill
  // q_segment and k_segment themselves.
  static LayerSegments plan(Arena& arena, const HeadPatterns& patterns, int64_t B, int64_t H, int64_t T, int64_t D,
                            int64_t positions = 0, bool documents = false, int64_t segments = 0, int64_t relations = 0);

  // For a later layer of the same pass with the same patterns, which must be fixed (patterns/pattern.h).
  LayerSegments for_later_layer() const;

  int64_t assign_scratch(const Context& ctx) const;  // of input.scratch, in f32 elements

  // All launch ops and return without waiting. The caller leaves projections, state, bucket_bias, first_head and heads
  // of `input` empty: they are filled in for each pattern.
  void draw(Context& ctx, uint64_t seed, RandomStep step, uint32_t layer) const;
  void assign(Context& ctx, const PatternInput& input) const;
  void assign_and_normalise_keys(Context& ctx, Tensor keys, Tensor inverse_norm, const PatternInput& input) const;
  void build(Context& ctx, ConstTensor document_start = {}) const;
  void add_bucket_loads(Context& ctx) const;      // after build
  void update_bucket_biases(Context& ctx) const;  // by the loads

 private:
  PatternInput of_pattern(PatternInput input, size_t i) const;  // with what the layer has of pattern i
  // keys: where these are normalised queries, for patterns that read them.
  void assign_each(Context& ctx, const PatternInput& input, ConstTensor keys) const;
};

}  // namespace scfa

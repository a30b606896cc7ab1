#include "kernels/attention/patterns/assign.h"

#include <algorithm>

#include "kernels/attention/normalise.h"
#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace {

// The input with the number of heads that the pattern is for.
PatternInput checked(const char* op, const Context& ctx, std::span<const Segments> relations,
                     const AttentionPattern& pattern, PatternInput input) {
  require(input.q.data && input.q.ndim == 4 && input.q.stride[3] == 1, op, ": q must be (B, T, H, D), not ",
          input.q.describe());
  const int64_t B = input.q.size(0), T = input.q.size(1), H = input.q.size(2), D = input.q.size(3);
  if (input.heads == 0) input.heads = H - input.first_head;
  require(input.first_head >= 0 && input.heads > 0 && input.first_head + input.heads <= H, op, ": heads ",
          input.first_head, " to ", input.first_head + input.heads, " of ", H);
  require(static_cast<int64_t>(relations.size()) >= relation_count(pattern), op, ": ", describe(pattern), " has ",
          relation_count(pattern), " relations, not ", relations.size());
  for (const Segments& relation : relations) {
    require_tensor(relation.q_segment, op, "q_segment", DType::kU16, {B, H, T});
    require_tensor(relation.k_segment, op, "k_segment", DType::kU16, {B, H, T});
    ctx.require_here(op, {relation.q_segment, relation.k_segment});
  }
  if (input.k)
    require(input.k.ndim == 4 && input.k.size(0) == B && input.k.size(1) == T && input.k.size(3) == D &&
                input.k.stride[3] == 1 && input.k.size(2) > 0 && H % input.k.size(2) == 0,
            op, ": k must be like q, ", input.q.describe(), ", but for heads, of which it has a divisor of ", H,
            ", not ", input.k.describe());
  if (needs_projections(pattern))
    require_tensor(input.projections, op, "projections", DType::kF32,
                   {pattern.rounds, input.heads, pattern.buckets / 2, D});
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  const int64_t elements =
      descriptor.state_elements == nullptr ? 0 : descriptor.state_elements(pattern, input.first_position + T, D);
  if (elements > 0)
    require(input.state.data && input.state.ndim == 3 && input.state.contiguous() && input.state.dtype == DType::kF32 &&
                input.state.size(0) == B && input.state.size(1) == input.heads && input.state.size(2) >= elements,
            op, ": state must be (", B, ", ", input.heads, ", ", elements, ") f32 or more, not ",
            input.state.data == nullptr ? "empty" : input.state.describe());
  if (input.bucket_bias)
    require_tensor(input.bucket_bias, op, "bucket_bias", DType::kF32,
                   {input.k ? 2 : 1, pattern.rounds, input.heads, pattern.buckets});
  const int64_t scratch = assign_scratch(ctx, pattern, B, input.heads, T);
  require(
      scratch == 0 || (input.scratch.data && input.scratch.dtype == DType::kF32 && input.scratch.numel() >= scratch),
      op, ": scratch must be ", scratch, " elements of f32, not ",
      input.scratch.data == nullptr ? "empty" : input.scratch.describe());
  require_elements(input.samples, op, "samples", DType::kI32, B);
  ctx.require_here(op,
                   {input.q, input.k, input.projections, input.samples, input.state, input.bucket_bias, input.scratch});
  return input;
}

// The relation of `near` is one segment with a window. In relations beyond those of the pattern rows are in no segment.
void fill_others(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  const auto count = static_cast<size_t>(relation_count(pattern));
  for (size_t r = pattern.near > 0 ? count - 1 : count; r < relations.size(); ++r)
    for (const Tensor& segment : {relations[r].q_segment, relations[r].k_segment})
      fill_heads(ctx, segment, input.first_head, input.heads, r < count ? 0 : kNoSegment);
}

void assign(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
            const PatternInput& input) {
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  require(input.k || !descriptor.reads_keys, "assign_segments: ", descriptor.name, " needs keys");
  require(!ctx.on_gpu() || descriptor.assign_gpu != nullptr, "attention.pattern: ", descriptor.name,
          " has no GPU kernel; set device to cpu");
  (ctx.on_gpu() ? descriptor.assign_gpu : descriptor.assign)(ctx, relations, pattern, input);
  fill_others(ctx, relations, pattern, input);
}

// normalise_keys without a ProfileRange of its own: its time counts as assign_segments.
void normalise(Context& ctx, const Tensor& keys, const Tensor& inverse_norm, const ConstTensor& q) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::normalise_keys(ctx, keys, inverse_norm, q);
  cpu::normalise_keys(ctx, keys, inverse_norm, q);
}

}  // namespace

int64_t assign_scratch(const Context& ctx, const AttentionPattern& pattern, int64_t B, int64_t heads, int64_t T) {
  const auto elements = descriptor_of(pattern).scratch_elements;
  return ctx.on_gpu() && elements != nullptr ? elements(pattern, B, heads, T) : 0;
}

void assign_segments(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                     const PatternInput& input) {
  constexpr const char* kOp = "assign_segments";
  const PatternInput whole = checked(kOp, ctx, relations, pattern, input);
  const ProfileRange range(ctx, kOp, Category::kAttention);
  assign(ctx, relations, pattern, whole);
}

void assign_segments_and_normalise_keys(Context& ctx, std::span<const Segments> relations, Tensor keys,
                                        Tensor inverse_norm, const AttentionPattern& pattern,
                                        const PatternInput& input) {
  constexpr const char* kOp = "assign_segments_and_normalise_keys";
  const PatternInput whole = checked(kOp, ctx, relations, pattern, input);
  require(!input.k, kOp, ": k must be empty, since the keys are made of q");
  require(whole.heads == input.q.size(2), kOp, ": the pattern must be for all ", input.q.size(2), " heads, not ",
          whole.heads);
  require(keys.data && keys.contiguous() && keys.same_shape(input.q) && keys.dtype == input.q.dtype, kOp,
          ": keys must be contiguous and like q, not ", keys.data == nullptr ? "empty" : keys.describe());
  require_tensor(inverse_norm, kOp, "inverse_norm", DType::kF32, {input.q.size(0), input.q.size(1), input.q.size(2)});
  ctx.require_here(kOp, {keys, inverse_norm});
  const ProfileRange range(ctx, "assign_segments", Category::kAttention);
  const auto fused = descriptor_of(pattern).assign_and_normalise_gpu;
  if (ctx.on_gpu() && fused != nullptr && needs_projections(pattern) &&
      relation_count(pattern) == (pattern.near > 0 ? 2 : 1)) {
    fused(ctx, relations[0], keys, inverse_norm, pattern, whole);
    return fill_others(ctx, relations, pattern, whole);
  }
  normalise(ctx, keys, inverse_norm, input.q);
  PatternInput with_keys = whole;
  if (descriptor_of(pattern).reads_keys) with_keys.k = keys;
  assign(ctx, relations, pattern, with_keys);
}

void fill_heads(Context& ctx, Tensor segment, int64_t first_head, int64_t heads, uint16_t id) {
  const int64_t B = segment.size(0), H = segment.size(1), T = segment.size(2);
  auto* first = segment.as<uint16_t>() + first_head * T;
  if (ctx.on_gpu()) {  // of either id, both bytes are the same
    const auto row = [](int64_t elements) { return static_cast<size_t>(elements) * sizeof(uint16_t); };
    return gpu::fill_rows(first, id & 0xFF, row(heads * T), row(H * T), static_cast<size_t>(B), ctx.stream());
  }
  for (int64_t b = 0; b < B; ++b) std::fill_n(first + b * H * T, heads * T, id);
}

}  // namespace scfa

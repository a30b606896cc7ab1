#include "kernels/attention/patterns.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "kernels/attention/normalise.h"

namespace scfa {

namespace {

// ---- one function per pattern, for the CPU --------------------------------------------------------------------------

void assign_dense(Tensor q_segment, Tensor k_segment, const AttentionPattern&, const PatternInput&) {
  std::fill_n(q_segment.as<uint16_t>(), q_segment.numel(), uint16_t{0});
  std::fill_n(k_segment.as<uint16_t>(), k_segment.numel(), uint16_t{0});
}

// bucket = argmax of [y, -y], y = x R: the index of the largest |y|, plus half where y is negative. Ties go to the
// lowest index.
void hash_rows(Tensor segment, const ConstTensor& x, const ConstTensor& projections) {
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), D = x.size(3), half = projections.size(1);
  const float *in = x.as<float>(), *directions = projections.as<float>();
  uint16_t* out = segment.as<uint16_t>();
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t) {
        const float* row = in + b * x.stride[0] + t * x.stride[1] + h * x.stride[2];
        float best = -1.0f;
        int64_t bucket = 0;
        for (int64_t c = 0; c < half; ++c) {
          const float* direction = directions + (h * half + c) * D;
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

void assign_hash(Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern, const PatternInput& input) {
  if (pattern.buckets == 1) return assign_dense(q_segment, k_segment, pattern, input);
  hash_rows(q_segment, input.q, input.projections);
  if (input.k)
    hash_rows(k_segment, input.k, input.projections);
  else
    std::copy_n(q_segment.as<uint16_t>(), q_segment.numel(), k_segment.as<uint16_t>());
}

void drop_rows(Tensor segment, Purpose purpose, double rate, const PatternInput& input) {
  const int64_t B = segment.size(0), H = segment.size(1), T = segment.size(2);
  uint16_t* out = segment.as<uint16_t>();
  const int32_t* samples = input.samples.as<int32_t>();
  const auto threshold = static_cast<float>(rate);
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t) {
        const int64_t position = input.first_position + t;
        const Random4 bits = random4(input.seed, purpose, input.step, input.layer, static_cast<uint32_t>(h),
                                     static_cast<uint32_t>(samples[b]), static_cast<uint32_t>(position / 4));
        out[(b * H + h) * T + t] = uniform(bits.v[position % 4]) < threshold ? kNoSegment : uint16_t{0};
      }
}

void assign_drop(Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern, const PatternInput& input) {
  drop_rows(q_segment, Purpose::kDropQuery, pattern.drop_rate, input);
  drop_rows(k_segment, Purpose::kDropKey, pattern.drop_rate, input);
}

// ---- the table of names ---------------------------------------------------------------------------------------------

struct Entry {
  const char* name;
  bool attend_self;  // unless the config says otherwise
  bool hashes;       // one segment per bucket, and needs random projections
  double (*share)(const AttentionPattern&);
  std::string (*describe)(const AttentionPattern&);
  void (*assign)(Tensor, Tensor, const AttentionPattern&, const PatternInput&);
  decltype(scfa::assign_segments)* assign_gpu;
  // One kernel for assign_segments_and_normalise_keys, where the pattern has projections; null: two kernels.
  decltype(scfa::assign_segments_and_normalise_keys)* assign_and_normalise_gpu = nullptr;
};

// Builds without CUDA have the declarations of GPU forms only.
template <auto* f>
constexpr auto gpu_form() -> decltype(f) {
  if constexpr (kCudaBuild)
    return f;
  else
    return nullptr;
}

constexpr Entry kPatterns[] = {
    {"dense", true, false,                         //
     [](const AttentionPattern&) { return 1.0; },  //
     [](const AttentionPattern&) { return std::string("dense"); }, assign_dense, gpu_form<gpu::assign_dense>()},
    {"hash", false, true,                                                             //
     [](const AttentionPattern& p) { return 1.0 / static_cast<double>(p.buckets); },  //
     [](const AttentionPattern& p) { return concat("hash with ", p.buckets, " buckets"); }, assign_hash,
     gpu_form<gpu::assign_hash>(), gpu_form<gpu::assign_hash_and_normalise_keys>()},
    {"drop", true, false,                                                              //
     [](const AttentionPattern& p) { return (1 - p.drop_rate) * (1 - p.drop_rate); },  //
     [](const AttentionPattern& p) { return concat("drop at rate ", p.drop_rate); }, assign_drop,
     gpu_form<gpu::assign_drop>()},
};

const Entry& find(const AttentionPattern& pattern) {
  for (const Entry& entry : kPatterns)
    if (pattern.pattern == entry.name) return entry;
  std::string known;
  for (const Entry& entry : kPatterns) known += concat(known.empty() ? "" : ", ", entry.name);
  fail("attention.pattern: \"", pattern.pattern, "\" is not known; it must be one of ", known);
}

}  // namespace

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kPatterns) names.emplace_back(entry.name);
  return names;
}

bool attends_self(const AttentionPattern& pattern) {
  return pattern.attend_self.value_or(find(pattern).attend_self);
}

Visibility visibility(const AttentionPattern& pattern) {
  return {attends_self(pattern), pattern.window};
}

int64_t segment_count(const AttentionPattern& pattern) {
  return find(pattern).hashes ? pattern.buckets : 1;
}

std::string describe(const AttentionPattern& p) {
  std::string text = find(p).describe(p);
  if (p.window > 0) text += concat(", window ", p.window);
  if (p.attend_self) text += *p.attend_self ? ", seeing itself" : ", not seeing itself";
  return text;
}

double share_of_pairs(const AttentionPattern& pattern, int64_t T) {
  const auto length = static_cast<double>(T), window = static_cast<double>(pattern.window);
  // Of T (T + 1) / 2 pairs, those of tokens that have less than a window before them, and a window for each other.
  const double in_window =
      pattern.window == 0 || pattern.window >= T ? 1.0 : window * (2 * length - window + 1) / (length * (length + 1));
  return find(pattern).share(pattern) * in_window;
}

bool needs_projections(const AttentionPattern& pattern) {
  return find(pattern).hashes && pattern.buckets > 1;
}

void validate(const AttentionPattern& pattern) {
  const Entry& entry = find(pattern);
  require(!entry.hashes || pattern.buckets == 1 ||
              (pattern.buckets >= 2 && pattern.buckets <= 64 && pattern.buckets % 2 == 0),
          "attention.buckets: must be 1 or an even number up to 64, not ", pattern.buckets);
  require(pattern.window >= 0, "attention.window: must be 0 or more, not ", pattern.window);
  require(pattern.drop_rate >= 0 && pattern.drop_rate <= 1, "attention.drop_rate: must be 0 to 1, not ",
          pattern.drop_rate);
}

void draw_projections(Context& ctx, Tensor projections, uint64_t seed, uint32_t step, uint32_t layer) {
  require(projections.data && projections.ndim == 3 && projections.contiguous(),
          "draw_projections: projections must be ", "(H, buckets/2, D), not ", projections.describe());
  ctx.require_here("draw_projections", {projections});
  const ProfileRange range(ctx, "draw_projections", Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::draw_projections(ctx, projections, seed, step, layer);
  cpu::draw_projections(ctx, projections, seed, step, layer);
}

namespace {

void check_pattern_input(const char* op, const Context& ctx, const Tensor& q_segment, const Tensor& k_segment,
                         const AttentionPattern& pattern, const PatternInput& input) {
  require(input.q.data && input.q.ndim == 4 && input.q.stride[3] == 1, op, ": q must be (B, T, H, D), not ",
          input.q.describe());
  const int64_t B = input.q.size(0), T = input.q.size(1), H = input.q.size(2), D = input.q.size(3);
  require_tensor(q_segment, op, "q_segment", DType::kU16, {B, H, T});
  require_tensor(k_segment, op, "k_segment", DType::kU16, {B, H, T});
  if (input.k) require(input.k.same_shape(input.q) && input.k.stride[3] == 1, op, ": k must be like q");
  if (needs_projections(pattern))
    require_tensor(input.projections, op, "projections", DType::kF32, {H, pattern.buckets / 2, D});
  require_elements(input.samples, op, "samples", DType::kI32, B);
  ctx.require_here(op, {q_segment, k_segment, input.q, input.k, input.projections, input.samples});
}

}  // namespace

void assign_segments(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                     const PatternInput& input) {
  constexpr const char* kOp = "assign_segments";
  check_pattern_input(kOp, ctx, q_segment, k_segment, pattern, input);
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return find(pattern).assign_gpu(ctx, q_segment, k_segment, pattern, input);
  cpu::assign_segments(ctx, q_segment, k_segment, pattern, input);
}

void assign_segments_and_normalise_keys(Context& ctx, Tensor q_segment, Tensor k_segment, Tensor keys,
                                        Tensor inverse_norm, const AttentionPattern& pattern,
                                        const PatternInput& input) {
  constexpr const char* kOp = "assign_segments_and_normalise_keys";
  check_pattern_input(kOp, ctx, q_segment, k_segment, pattern, input);
  require(!input.k, kOp, ": k must be empty, since the keys are made of q");
  require(keys.data && keys.contiguous() && keys.same_shape(input.q) && keys.dtype == input.q.dtype, kOp,
          ": keys must be contiguous and like q, not ", keys.data == nullptr ? "empty" : keys.describe());
  require_tensor(inverse_norm, kOp, "inverse_norm", DType::kF32, {input.q.size(0), input.q.size(1), input.q.size(2)});
  ctx.require_here(kOp, {keys, inverse_norm});
  const ProfileRange range(ctx, "assign_segments", Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) {
      const Entry& entry = find(pattern);
      if (entry.assign_and_normalise_gpu != nullptr && needs_projections(pattern))
        return entry.assign_and_normalise_gpu(ctx, q_segment, k_segment, keys, inverse_norm, pattern, input);
      gpu::normalise_keys(ctx, keys, inverse_norm, input.q);
      return entry.assign_gpu(ctx, q_segment, k_segment, pattern, input);
    }
  cpu::assign_segments_and_normalise_keys(ctx, q_segment, k_segment, keys, inverse_norm, pattern, input);
}

namespace cpu {

void draw_projections(Context& /*ctx*/, Tensor projections, uint64_t seed, uint32_t step, uint32_t layer) {
  const int64_t H = projections.size(0), columns = projections.size(1), D = projections.size(2);
  for (int64_t h = 0; h < H; ++h)
    for (int64_t c = 0; c < columns; ++c) {
      float* direction = projections.as<float>() + (h * columns + c) * D;
      double square = 0.0;
      for (int64_t d = 0; d < D; ++d) {
        const int64_t pair = (c * D + d) / 2, half = (c * D + d) % 2;
        const Random4 bits =
            random4(seed, Purpose::kProjection, step, layer, static_cast<uint32_t>(h), 0, static_cast<uint32_t>(pair));
        float x, y;
        normal2(bits.v[0], bits.v[1], x, y);
        direction[d] = half == 0 ? x : y;
        square += static_cast<double>(direction[d]) * static_cast<double>(direction[d]);
      }
      const auto scale = static_cast<float>(1.0 / std::sqrt(square));
      for (int64_t d = 0; d < D; ++d) direction[d] *= scale;
    }
}

void assign_segments(Context& /*ctx*/, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                     const PatternInput& input) {
  find(pattern).assign(q_segment, k_segment, pattern, input);
}

void assign_segments_and_normalise_keys(Context& ctx, Tensor q_segment, Tensor k_segment, Tensor keys,
                                        Tensor inverse_norm, const AttentionPattern& pattern,
                                        const PatternInput& input) {
  cpu::normalise_keys(ctx, keys, inverse_norm, input.q);
  cpu::assign_segments(ctx, q_segment, k_segment, pattern, input);
}

}  // namespace cpu
}  // namespace scfa

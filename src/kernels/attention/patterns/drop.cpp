// Kept rows in one segment, dropped rows in none: Pagliardini et al. 2023, arXiv:2306.01160, section 3.2.
#include "core/rng.h"
#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

namespace gpu {
AssignSegments assign_drop;
}

namespace {

void drop_rows(const Tensor& segment, Purpose purpose, double rate, const PatternInput& input) {
  const int64_t B = segment.size(0), H = segment.size(1), T = segment.size(2);
  uint16_t* out = segment.as<uint16_t>();
  const int32_t* samples = input.samples.as<int32_t>();
  const auto threshold = static_cast<float>(rate);
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = input.first_head; h < input.first_head + input.heads; ++h)
      for (int64_t t = 0; t < T; ++t) {
        const int64_t position = input.first_position + t;
        const Random4 bits = random4(input.seed, purpose, input.step.value, input.layer, static_cast<uint32_t>(h),
                                     static_cast<uint32_t>(samples[b]), static_cast<uint32_t>(position / 4));
        out[(b * H + h) * T + t] = uniform(bits.v[position % 4]) < threshold ? kNoSegment : uint16_t{0};
      }
}

void assign_drop(Context& /*ctx*/, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  drop_rows(relations[0].q_segment, Purpose::kDropQuery, pattern.drop_rate, input);
  drop_rows(relations[0].k_segment, Purpose::kDropKey, pattern.drop_rate, input);
}

void validate_drop(const AttentionPattern& p) {
  require(p.drop_rate >= 0 && p.drop_rate <= 1, "attention.drop_rate: must be 0 to 1, not ", p.drop_rate);
}

}  // namespace

constexpr PatternDescriptor kDropPattern{
    .name = "drop",
    .parameters = {"drop_rate"},
    .attend_self = true,
    .causal = true,
    .segments = [](const AttentionPattern&, int64_t) -> int64_t { return 1; },
    .share_of_pairs = [](const AttentionPattern& p, int64_t) { return (1 - p.drop_rate) * (1 - p.drop_rate); },
    .describe = [](const AttentionPattern& p) { return concat("drop at rate ", p.drop_rate); },
    .validate = validate_drop,
    .assign = assign_drop,
    .assign_gpu = gpu_implementation<gpu::assign_drop>(),
};

}  // namespace scfa

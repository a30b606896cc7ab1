#include "support/pattern_segments.h"

namespace scfa::test {

ChosenSegments::ChosenSegments(const AttentionPattern& pattern, const Draw& draw)
    : q(DType::kU16, {draw.q.size(0), draw.q.size(2), draw.q.size(1)}),
      k(DType::kU16, {draw.q.size(0), draw.q.size(2), draw.q.size(1)}),
      projections({1, draw.q.size(2), pattern.buckets / 2, draw.q.size(3)}) {
  Context ctx;
  std::vector<int32_t> samples = draw.samples;
  for (int32_t i = 0; samples.size() < static_cast<size_t>(draw.q.size(0)); ++i) samples.push_back(i);
  if (needs_projections(pattern)) draw_projections(ctx, projections, draw.seed, draw.step, draw.layer);
  const Segments relation = ids_alone(q, k);
  assign_segments(ctx, {&relation, 1}, pattern,
                  {.q = draw.q,
                   .k = draw.k,
                   .projections = needs_projections(pattern) ? ConstTensor(projections) : ConstTensor(),
                   .samples = ConstTensor(samples.data(), DType::kI32, Device::kCpu, {draw.q.size(0)}),
                   .seed = draw.seed,
                   .step = draw.step,
                   .layer = draw.layer,
                   .first_position = draw.first_position});
}

}  // namespace scfa::test

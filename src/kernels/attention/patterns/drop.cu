// The drop pattern on the GPU.
#include "core/rng.h"
#include "kernels/attention/patterns/descriptor.h"

namespace scfa::gpu {

AssignSegments assign_drop;

namespace {

// Bit-identical to the CPU. One thread per row; four consecutive positions use the four words of one Philox draw. A row
// is one of B * heads * T; those of a sequence's other heads are left out.
__global__ void __launch_bounds__(256)
    drop_kernel(uint16_t* segment, Purpose purpose, float rate, const int* samples, uint64_t seed, RandomStep step,
                uint32_t layer, int64_t first, int T, int H, int first_head, int heads, int64_t rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const int64_t position = first + i % T, b = i / T / heads, h = first_head + i / T % heads;
  const Random4 bits = random4(seed, purpose, step.get(), layer, static_cast<uint32_t>(h),
                               static_cast<uint32_t>(samples[b]), static_cast<uint32_t>(position / 4));
  const int which = static_cast<int>(position % 4);
  const uint32_t word = which == 0 ? bits.v[0] : which == 1 ? bits.v[1] : which == 2 ? bits.v[2] : bits.v[3];
  segment[(b * H + h) * T + i % T] = uniform(word) < rate ? kNoSegment : uint16_t{0};
}

void drop_rows(Context& ctx, const Tensor& segment, Purpose purpose, double rate, const PatternInput& input) {
  const int64_t rows = segment.size(0) * input.heads * segment.size(2);
  drop_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, ctx.stream()>>>(
      segment.as<uint16_t>(), purpose, static_cast<float>(rate), input.samples.as<int32_t>(), input.seed, input.step,
      input.layer, input.first_position, static_cast<int>(segment.size(2)), static_cast<int>(segment.size(1)),
      static_cast<int>(input.first_head), static_cast<int>(input.heads), rows);
  check_launch("assign_segments", ctx.stream());
}

}  // namespace

void assign_drop(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  drop_rows(ctx, relations[0].q_segment, Purpose::kDropQuery, pattern.drop_rate, input);
  drop_rows(ctx, relations[0].k_segment, Purpose::kDropKey, pattern.drop_rate, input);
}

}  // namespace scfa::gpu

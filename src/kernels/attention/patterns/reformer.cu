// GPU implementation of reformer.cpp: the stable sort of build_segments gives the order by bucket, from which chunks
// are cut.
#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/patterns/reformer.h"
#include "kernels/attention/segments_gpu.cuh"

namespace scfa::gpu {

namespace {

// One thread per entry of a head's sorted list, for `rows` of the pattern's heads. order: (B, H, T), the position of
// each entry.
__global__ void __launch_bounds__(256)
    chunks_kernel(uint16_t* own_q, uint16_t* own_k, uint16_t* previous_q, uint16_t* previous_k, const int* order,
                  int length, int chunks, int T, int H, int first_head, int heads, int64_t rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const int64_t b = i / T / heads, h = first_head + i / T % heads, first = (b * H + h) * T;
  const int entry = static_cast<int>(i % T), chunk = entry / length;
  const int64_t at = first + order[first + entry];
  own_q[at] = own_k[at] = static_cast<uint16_t>(chunk);
  previous_q[at] = chunk > 0 ? static_cast<uint16_t>(chunk) : kNoSegment;
  previous_k[at] = chunk + 1 < chunks ? static_cast<uint16_t>(chunk + 1) : kNoSegment;
}

}  // namespace

void assign_reformer(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                     const PatternInput& input) {
  assign_buckets(ctx, relations, pattern, input);
  const int64_t T = input.q.size(1), rows = input.q.size(0) * input.heads * T;
  const int64_t length = chunk_length(pattern, T), chunks = (T + length - 1) / length;
  for (int64_t round = 0; round < pattern.rounds; ++round) {
    const Segments &own = relations[static_cast<size_t>(2 * round)],
                   &previous = relations[static_cast<size_t>(2 * round + 1)];
    SegmentLists lists = segment_lists(own);  // also sorts the other heads; build_segments sorts all again
    lists.begin_key = lists.end_query = nullptr;
    const Visibility any;
    sort_segments(ctx.stream(), lists, std::span(&any, 1), nullptr);
    chunks_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, ctx.stream()>>>(
        own.q_segment.as<uint16_t>(), own.k_segment.as<uint16_t>(), previous.q_segment.as<uint16_t>(),
        previous.k_segment.as<uint16_t>(), own.q_index.as<int32_t>(), static_cast<int>(length),
        static_cast<int>(chunks), static_cast<int>(T), static_cast<int>(input.q.size(2)),
        static_cast<int>(input.first_head), static_cast<int>(input.heads), rows);
    check_launch("assign_segments", ctx.stream());
  }
}

}  // namespace scfa::gpu

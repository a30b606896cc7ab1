// A stable counting sort of each head's rows by segment. One block sorts one head, by TiedSort where that is possible
// and by WarpSort otherwise.
#include <algorithm>
#include <bit>

#include "kernels/attention/tied_sort.cuh"
#include "kernels/attention/warp_sort.cuh"

namespace scfa::gpu {

namespace {

// Warps that sort: as many as have counters for queries and keys within 64 KB of shared memory.
int warps_that_sort(int S) {
  int warps = 32;
  while (warps > 1 && S * warps * 8 > 64 * 1024) warps /= 2;
  return warps;
}

// Visibility of consecutive heads, by entry. What is passed to one launch.
struct HeadVisibilities {
  static constexpr int kMostEntries = 8;
  struct Entry {
    int end_head, window, gap;
    bool attend_self;
  };
  Entry entries[kMostEntries];
  int first_head;
  __device__ const Entry& of(int h) const {
    int i = 0;
    while (h >= entries[i].end_head) ++i;
    return entries[i];
  }
};

// The head that a block takes. grid: (heads from first_head on, B, ...)
struct HeadOfBlock {
  int64_t index;  // of (B, H)
  HeadVisibilities::Entry visibility;
  __device__ HeadOfBlock(const SegmentLists& lists, const HeadVisibilities& visibilities) {
    const int h = visibilities.first_head + static_cast<int>(blockIdx.x);
    index = static_cast<int64_t>(blockIdx.y) * lists.H + h;
    visibility = visibilities.of(h);
  }
};

// tied_fits: there is room for TiedSort, where the head is tied.
__global__ void __launch_bounds__(kSortThreads, 2)
    sort_segments_kernel(SegmentLists lists, const __grid_constant__ HeadVisibilities visibilities, int bits, int warps,
                         bool tied_fits) {
  extern __shared__ uint4 shared[];
  const HeadOfBlock head(lists, visibilities);
  if (tied_fits && !is_untied(lists, head.index))
    TiedSort(lists, reinterpret_cast<unsigned char*>(shared), head.index).run(head.visibility.attend_self);
  else
    WarpSort(lists, reinterpret_cast<int*>(shared), head.index, bits, warps).run(head.visibility.attend_self);
}

// The first of `count` ascending positions that is at least `least`.
__device__ int lower_bound(const int* positions, int count, int least) {
  return partition_point(count, [&](int i) { return positions[i] < least; });
}

// Computes end_key and begin_query, if there is a gap of more than one; then begin_key and end_query, if ranges were
// planned. A query that sees no key, and a key that no query sees, have an empty range. One thread per entry of a
// head's two sorted lists. document_start: (B, T), or null. grid: (heads, B, T / 256)
__global__ void __launch_bounds__(256)
    ranges_kernel(SegmentLists lists, const __grid_constant__ HeadVisibilities visibilities,
                  const int* document_start) {
  const HeadOfBlock of_block(lists, visibilities);
  const int64_t head = of_block.index, list = head * lists.T;
  const int window = of_block.visibility.window, gap = of_block.visibility.gap;
  const int entry = static_cast<int>(blockIdx.z * blockDim.x + threadIdx.x);
  const int *q_begin = lists.q_begin + head * (lists.S + 1), *k_begin = lists.k_begin + head * (lists.S + 1);
  const int* starts = document_start != nullptr ? document_start + static_cast<int64_t>(blockIdx.y) * lists.T : nullptr;
  const auto first_visible = [&](int t) {
    const int by_window = window > 0 ? max(0, t - window + 1) : 0;
    return starts != nullptr ? max(by_window, starts[t]) : by_window;
  };
  if (entry < q_begin[lists.S]) {
    const int s = segment_at(q_begin, lists.S, entry);
    const int *keys = lists.k_index + list + k_begin[s], count = k_begin[s + 1] - k_begin[s];
    const int position = lists.q_index[list + entry];
    if (gap > 1) lists.end_key[list + entry] = lower_bound(keys, count, position - gap + 1);
    if (lists.begin_key != nullptr)
      lists.begin_key[list + entry] =
          min(lower_bound(keys, count, first_visible(position)), lists.end_key[list + entry]);
  }
  if (entry < k_begin[lists.S]) {
    const int s = segment_at(k_begin, lists.S, entry);
    const int *queries = lists.q_index + list + q_begin[s], count = q_begin[s + 1] - q_begin[s];
    const int position = lists.k_index[list + entry];
    if (gap > 1) lists.begin_query[list + entry] = lower_bound(queries, count, position + gap);
    if (lists.end_query != nullptr)
      lists.end_query[list + entry] =
          max(partition_point(count, [&](int i) { return first_visible(queries[i]) <= position; }),
              lists.begin_query[list + entry]);
  }
}

}  // namespace

void sort_segments(Stream stream, const SegmentLists& lists, std::span<const Visibility> by_head,
                   const int* document_start) {
  constexpr const char* kOp = "build_segments";
  const int warps = warps_that_sort(lists.S), bits = std::bit_width(static_cast<unsigned>(lists.S));
  int shared_bytes = lists.S * warps * 8;
  const int tied_bytes = TiedSortLayout(lists.S).bytes(lists.T);
  const bool tied_fits = TiedSortLayout::suits(lists.T, lists.S) && tied_bytes + 1024 <= properties().shared_memory;
  if (tied_fits) shared_bytes = std::max(shared_bytes, tied_bytes);
  if (cudaFuncSetAttribute(sort_segments_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) !=
      cudaSuccess)
    fail(kOp, ": ", lists.S, " segments need ", shared_bytes, " bytes of shared memory");
  HeadVisibilities visibilities{};
  int count = 0;  // of entries
  bool needs_ranges = lists.begin_key != nullptr;
  const auto launch = [&](int end_head) {
    const dim3 grid(static_cast<unsigned>(end_head - visibilities.first_head),
                    static_cast<unsigned>(lists.heads / lists.H));
    sort_segments_kernel<<<grid, kSortThreads, static_cast<size_t>(shared_bytes), stream>>>(lists, visibilities, bits,
                                                                                            warps, tied_fits);
    check_launch(kOp, stream);
    if (needs_ranges)
      ranges_kernel<<<dim3(grid.x, grid.y, static_cast<unsigned>((lists.T + 255) / 256)), 256, 0, stream>>>(
          lists, visibilities, document_start);
    check_launch(kOp, stream);
    visibilities.first_head = end_head, count = 0;
  };
  const auto up_to_T = [&](int64_t positions) { return static_cast<int>(std::min<int64_t>(positions, lists.T)); };
  for_each_visibility(by_head, lists.H, [&](int64_t, int64_t end, const Visibility& visibility) {
    const auto end_head = static_cast<int>(end);
    visibilities.entries[count++] = {end_head, up_to_T(visibility.window), up_to_T(visibility.gap),
                                     visibility.nearest() == 0};
    needs_ranges = needs_ranges || visibility.gap > 1;
    if (count == HeadVisibilities::kMostEntries || end_head == lists.H) launch(end_head);
  });
}

SegmentLists segment_lists(const Segments& s) {
  return {.q_segment = s.q_segment.as<uint16_t>(),
          .k_segment = s.k_segment.as<uint16_t>(),
          .q_begin = s.q_begin.as<int32_t>(),
          .k_begin = s.k_begin.as<int32_t>(),
          .q_index = s.q_index.as<int32_t>(),
          .k_index = s.k_index.as<int32_t>(),
          .end_key = s.end_key.as<int32_t>(),
          .begin_query = s.begin_query.as<int32_t>(),
          .H = static_cast<int>(s.q_segment.size(1)),
          .heads = static_cast<int>(s.q_segment.size(0) * s.q_segment.size(1)),
          .T = static_cast<int>(s.q_segment.size(2)),
          .S = static_cast<int>(s.count()),
          .begin_key = s.has_ranges() ? s.begin_key.as<int32_t>() : nullptr,
          .end_query = s.has_ranges() ? s.end_query.as<int32_t>() : nullptr};
}

void build_segments(Context& ctx, const Segments& s, std::span<const Visibility> by_head, ConstTensor document_start) {
  const SegmentLists lists = segment_lists(s);
  sort_segments(ctx.stream(), lists, by_head, document_start ? document_start.as<int32_t>() : nullptr);
  build_work_lists(ctx.stream(), lists, s.work, ctx.workspace());
}

}  // namespace scfa::gpu

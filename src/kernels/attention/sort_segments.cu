// A stable counting sort of each head's rows by segment. One block sorts one head, by TiedSort where that is possible
// and by WarpSort otherwise.
#include <algorithm>
#include <bit>
#include <climits>

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

// tied_fits: there is room for TiedSort, where the head is tied.
__global__ void __launch_bounds__(kSortThreads, 2)
    sort_segments_kernel(SegmentLists lists, int bits, int warps, bool tied_fits, bool attend_self) {
  extern __shared__ uint4 shared[];
  const int64_t head = blockIdx.x;
  if (tied_fits && !is_untied(lists, head))
    TiedSort(lists, reinterpret_cast<unsigned char*>(shared), head).run(attend_self);
  else
    WarpSort(lists, reinterpret_cast<int*>(shared), head, bits, warps).run(attend_self);
}

// The first of `count` ascending positions that is at least `least`.
__device__ int lower_bound(const int* positions, int count, int least) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (positions[middle] < least)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// first_visible_key and end_query. One thread takes the query and the key of one entry of a head's sorted lists. grid:
// (heads, T / 256)
__global__ void __launch_bounds__(256) window_kernel(SegmentLists lists, int window) {
  const int64_t head = blockIdx.x, list = head * lists.T;
  const int entry = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  const int *q_begin = lists.q_begin + head * (lists.S + 1), *k_begin = lists.k_begin + head * (lists.S + 1);
  if (entry < q_begin[lists.S]) {
    const int s = segment_at(q_begin, lists.S, entry);
    lists.first_visible_key[list + entry] = lower_bound(lists.k_index + list + k_begin[s], k_begin[s + 1] - k_begin[s],
                                                        lists.q_index[list + entry] - window + 1);
  }
  if (entry < k_begin[lists.S]) {
    const int s = segment_at(k_begin, lists.S, entry);
    lists.end_query[list + entry] = lower_bound(lists.q_index + list + q_begin[s], q_begin[s + 1] - q_begin[s],
                                                min(lists.k_index[list + entry], INT_MAX - window) + window);
  }
}

}  // namespace

void sort_segments(Stream stream, const SegmentLists& lists, const Visibility& visibility) {
  constexpr const char* kOp = "build_segments";
  const int warps = warps_that_sort(lists.S), bits = std::bit_width(static_cast<unsigned>(lists.S));
  int shared_bytes = lists.S * warps * 8;
  const int tied_bytes = TiedSortLayout(lists.S).bytes(lists.T);
  const bool tied_fits = TiedSortLayout::suits(lists.T, lists.S) && tied_bytes + 1024 <= properties().shared_memory;
  if (tied_fits) shared_bytes = std::max(shared_bytes, tied_bytes);
  if (cudaFuncSetAttribute(sort_segments_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) !=
      cudaSuccess)
    fail(kOp, ": ", lists.S, " segments need ", shared_bytes, " bytes of shared memory");
  sort_segments_kernel<<<static_cast<unsigned>(lists.heads), kSortThreads, static_cast<size_t>(shared_bytes), stream>>>(
      lists, bits, warps, tied_fits, visibility.attend_self);
  check_launch(kOp, stream);
  if (visibility.window == 0) return;
  const dim3 grid(static_cast<unsigned>(lists.heads), static_cast<unsigned>((lists.T + 255) / 256));
  window_kernel<<<grid, 256, 0, stream>>>(lists, static_cast<int>(std::min<int64_t>(visibility.window, lists.T)));
  check_launch(kOp, stream);
}

void build_segments(Context& ctx, const Segments& s, const Visibility& visibility) {
  const SegmentLists lists{s.q_segment.as<uint16_t>(),
                           s.k_segment.as<uint16_t>(),
                           s.q_begin.as<int32_t>(),
                           s.k_begin.as<int32_t>(),
                           s.q_index.as<int32_t>(),
                           s.k_index.as<int32_t>(),
                           s.num_visible_keys.as<int32_t>(),
                           s.first_query.as<int32_t>(),
                           static_cast<int>(s.q_segment.size(0) * s.q_segment.size(1)),
                           static_cast<int>(s.q_segment.size(2)),
                           static_cast<int>(s.count()),
                           s.first_visible_key ? s.first_visible_key.as<int32_t>() : nullptr,
                           s.end_query ? s.end_query.as<int32_t>() : nullptr};
  sort_segments(ctx.stream(), lists, visibility);
  build_work_lists(ctx.stream(), lists, s.work, ctx.workspace());
}

}  // namespace scfa::gpu

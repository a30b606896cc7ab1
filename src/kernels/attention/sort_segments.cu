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

}  // namespace

void sort_segments(Stream stream, const SegmentLists& lists, bool attend_self) {
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
      lists, bits, warps, tied_fits, attend_self);
  check_launch(kOp, stream);
}

void build_segments(Context& ctx, const Segments& s, bool attend_self) {
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
                           static_cast<int>(s.count())};
  sort_segments(ctx.stream(), lists, attend_self);
  build_work_lists(ctx.stream(), lists, s.work, ctx.workspace());
}

}  // namespace scfa::gpu

// What the kernels of build_segments share.
#pragma once
#include "core/gpu.h"
#include "kernels/attention/block_scan.cuh"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct SegmentLists {
  const uint16_t *q_segment, *k_segment;
  int *q_begin, *k_begin, *q_index, *k_index, *end_key, *begin_query;
  int H, heads, T, S;          // heads: B * H
  int *begin_key, *end_query;  // with ranges only, otherwise null
};

SegmentLists segment_lists(const Segments& segments);

inline constexpr int kSortThreads = kScanThreads;

// Everything but the work lists, by one stable counting sort per head.
void sort_segments(Stream stream, const SegmentLists& lists, std::span<const Visibility> by_head,
                   const int* document_start);
// The work lists, from what sort_segments made. workspace: kWorkListBytes.
inline constexpr size_t kWorkListBytes = 8192;
void build_work_lists(Stream stream, const SegmentLists& lists, const WorkLists& work, void* workspace);

// As std::partition_point: the first i in [0, count) for which is_before(i) is false, or count. is_before is true up to
// some i and false from there on.
template <class IsBefore>
__device__ int partition_point(int count, const IsBefore& is_before) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (is_before(middle))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Which of S segments a row of the sorted list belongs to: the last that starts at or before it.
__device__ inline int segment_at(const int* starts, int S, int64_t row) {
  return partition_point(S - 1, [&](int s) { return starts[s + 1] <= row; });
}

// Whether some row of a head has its query and its key in different segments. By all threads of a block.
__device__ inline bool is_untied(const SegmentLists& lists, int64_t head) {
  const uint16_t *q = lists.q_segment + head * lists.T, *k = lists.k_segment + head * lists.T;
  bool differ = false;
  if (lists.T % 8 == 0) {
    const auto *q8 = reinterpret_cast<const uint4*>(q), *k8 = reinterpret_cast<const uint4*>(k);
    for (int i = threadIdx.x; i < lists.T / 8; i += blockDim.x)
      differ |= q8[i].x != k8[i].x || q8[i].y != k8[i].y || q8[i].z != k8[i].z || q8[i].w != k8[i].w;
  } else {
    for (int t = threadIdx.x; t < lists.T; t += blockDim.x) differ |= q[t] != k[t];
  }
  return __syncthreads_or(static_cast<int>(differ)) != 0;
}

}  // namespace scfa::gpu

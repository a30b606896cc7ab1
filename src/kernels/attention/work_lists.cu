// The work lists, in order of cost. Two kernels go through all slots of all heads: the first counts items by list and
// cost bin, the second gives each item its place. Slot i < S of a head is segment i, and its first tile. Slot S + j is
// the tile, other than a segment's first, that starts at row j * tile_rows of the sorted list or behind it in the
// segment of that row. So no thread has more to do than another, however long a segment is. Key tiles are placed
// segment by segment, so that they stand side by side.
#include <climits>

#include "kernels/attention/work_slots.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256;
static_assert(kBins <= kThreads);

// grid: (heads, slots of a head / kThreads)
__global__ void __launch_bounds__(kThreads) count_work_kernel(SegmentLists lists, WorkListParams work, int slots) {
  extern __shared__ int shared_starts[];
  __shared__ Count counts[kBins];
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) counts[i] = {0};
  const Starts head_starts(shared_starts, lists, blockIdx.x);
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (slot < slots)
    for_slot(lists, head_starts, work, static_cast<int>(blockIdx.x), slot,
             [&](int, int bin, const SlotItem&, Count count) { add(counts, bin, count); });
  __syncthreads();
  for (int b = threadIdx.x; b < kBins; b += blockDim.x)
    if (counts[b].value > 0) atomicAdd(&work.total[b].value, counts[b].value);
  if (blockIdx.y == 0 && is_untied(lists, blockIdx.x) && threadIdx.x == 0) atomicAdd(work.untied_heads, 1);
}

// ---- placing --------------------------------------------------------------------------------------------------------

// Writes every `step`th key tile of a segment from tile `from` on; the segment's last tile stands first in the list.
template <bool kIsLocal>
__device__ void place_key_tiles(const SegmentLists& lists, KeyTile* to, const SlotItem& segment, int dq_block,
                                int tile_rows, int from, int step) {
  constexpr int kAtOnce = kIsLocal ? 2 : 4;  // whose loads are under way together; with ranges there are more
  const int tiles = tiles_of(segment.rows, tile_rows);
  for (int tile0 = from; tile0 < tiles; tile0 += kAtOnce * step) {
    int begin[kAtOnce], next_begin[kAtOnce], end[kAtOnce], previous_end[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int tile = tile0 + i * step, offset = segment.outer_offset + tile * tile_rows;
      const bool is_first = tile == 0 || tile >= tiles, is_last = tile + 1 >= tiles;
      const auto end_before = [&](int key) { return kIsLocal ? lists.end_query[key - 1] : segment.inner_rows; };
      // The minima let a tile begin at or before the end of the previous one, so that queries that see no key are in a
      // tile too.
      previous_end[i] = is_first ? 0 : end_before(offset);
      begin[i] = is_first ? 0 : min(lists.begin_query[offset], previous_end[i]);
      end[i] = is_last ? segment.inner_rows : end_before(offset + tile_rows);
      next_begin[i] = is_last ? INT_MAX : min(lists.begin_query[offset + tile_rows], end[i]);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int tile = tile0 + i * step, first = tile * tile_rows;
      if (tile >= tiles) break;
      to[tiles - 1 - tile] = {segment.head,
                              segment.segment,
                              first,
                              min(tile_rows, segment.rows - first),
                              segment.outer_offset + first,
                              segment.inner_offset,
                              begin[i],
                              end[i],
                              next_begin[i],
                              dq_block,
                              previous_end[i],
                              segment.inner_rows};
    }
  }
}

// The key tiles of all segments that the lanes of a warp have (is_placed). A lane writes few tiles alone, and the
// whole warp writes many.
template <bool kIsLocal>
__device__ void place_segments(const SegmentLists& lists, KeyTile* tiles, bool is_placed, const SlotItem& item,
                               Count at, int tile_rows) {
  constexpr int kFew = 8;
  const int count = is_placed ? tiles_of(item.rows, tile_rows) : 0;
  KeyTile* to = tiles + static_cast<unsigned>(at.value);
  if (count > 0 && count <= kFew) place_key_tiles<kIsLocal>(lists, to, item, at.query_blocks(), tile_rows, 0, 1);
  for (unsigned many = __ballot_sync(kFullMask, count > kFew); many != 0; many &= many - 1) {
    const int lane = __ffs(static_cast<int>(many)) - 1;
    const auto from = [&](int x) { return __shfl_sync(kFullMask, x, lane); };
    const SlotItem theirs{from(item.head),         from(item.segment),   0, from(item.rows), from(item.outer_offset),
                          from(item.inner_offset), from(item.inner_rows)};
    place_key_tiles<kIsLocal>(lists, tiles + from(at.items()), theirs, from(at.query_blocks()), tile_rows,
                              static_cast<int>(threadIdx.x) % 32, 32);
  }
}

// Totals in starts become the places where bins start in their lists; the first block writes WorkCounts. By kLists
// threads.
__device__ void start_lists(const WorkListParams& work, Count* starts) {
  const int list = threadIdx.x;
  unsigned long long sum = 0, multi_block = 0;
  for (int b = 0; b < kBinsPerList; ++b) {
    if (b == kCostBins) multi_block = sum;
    Count& start = starts[list * kBinsPerList + b];
    const unsigned long long count = start.value;
    start.value = sum;
    sum += count;
  }
  if (blockIdx.x != 0 || blockIdx.y != 0) return;
  (&work.counts->query_tiles)[list] = static_cast<int>(sum);
  if (list < kSingleBlockSegments) (&work.counts->multi_block_query_tiles)[list] = static_cast<int>(multi_block);
  if (list == 0) work.counts->untied_heads = *work.untied_heads;
}
static_assert(offsetof(WorkCounts, single_block_segments) == 4 * kSingleBlockSegments &&
              offsetof(WorkCounts, multi_block_wide_key_tiles) ==
                  offsetof(WorkCounts, multi_block_query_tiles) + 4 * kWideKeyTiles);

// A block reserves space in each bin by one atomicAdd for all its items: one per item would contend for few addresses.
template <bool kIsLocal>
__global__ void __launch_bounds__(kThreads) place_work_kernel(SegmentLists lists, WorkListParams work, int slots) {
  extern __shared__ int shared_starts[];
  __shared__ Count starts[kBins], counts[kBins];
  const int own = threadIdx.x;  // the bin that this thread looks after, if there is one
  if (own < kBins) starts[own] = work.total[own], counts[own] = {0};
  const Starts head_starts(shared_starts, lists, blockIdx.x);
  if (threadIdx.x < kLists) start_lists(work, starts);
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  SlotItem found[kLists];
  int bin_of[kLists];
  Count rank[kLists];
#pragma unroll
  for (int list = 0; list < kLists; ++list) bin_of[list] = -1;
  if (slot < slots)
    for_slot(lists, head_starts, work, static_cast<int>(blockIdx.x), slot,
             [&](int list, int bin, const SlotItem& item, Count count) {
               found[list] = item;
               bin_of[list] = bin;
               rank[list] = add(counts, bin, count);
             });
  __syncthreads();
  if (own < kBins && counts[own].value > 0) starts[own].value += atomicAdd(&work.placed[own].value, counts[own].value);
  __syncthreads();
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    const bool is_placed = bin_of[list] >= 0;
    const Count at{is_placed ? starts[bin_of[list]].value + rank[list].value : 0};
    const SlotItem& item = found[list];
    if (is_of_keys(list))
      place_segments<kIsLocal>(lists, list == kKeyTiles ? work.key_tiles : work.wide_key_tiles, is_placed, item, at,
                               rows_of_tile(list));
    else if (is_placed && list == kSingleBlockSegments)
      work.single_block_segments[at.items()] = {item.head,         item.segment,      item.rows, item.inner_rows,
                                                item.outer_offset, item.inner_offset, {}};
    else if (is_placed)
      (list == kQueryTiles ? work.query_tiles : work.wide_query_tiles)[at.items()] = {
          item.head,         item.segment,      item.first,       item.rows,
          item.outer_offset, item.inner_offset, item.inner_begin, item.inner_rows};
  }
}

}  // namespace

void build_work_lists(Stream stream, const SegmentLists& lists, const WorkLists& w, void* workspace) {
  constexpr const char* kOp = "build_segments";
  auto* counters = static_cast<Count*>(workspace);
  const WorkListParams work{static_cast<QueryTile*>(w.query_tiles.data),
                            static_cast<QueryTile*>(w.wide_query_tiles.data),
                            static_cast<KeyTile*>(w.key_tiles.data),
                            static_cast<KeyTile*>(w.wide_key_tiles.data),
                            static_cast<SingleBlockSegment*>(w.single_block_segments.data),
                            static_cast<WorkCounts*>(w.counts.data),
                            static_cast<int>(w.single_block_max_rows),
                            int64_t{lists.heads} * lists.T >= kL2GroupMinRows ? static_cast<int>(kL2GroupMaxRows) : -1,
                            counters,
                            counters + kBins,
                            reinterpret_cast<int*>(counters + 2 * kBins)};
  fill(workspace, 0, kCounterBytes, stream);
  const int slots = slots_of(lists);
  const dim3 blocks(static_cast<unsigned>(lists.heads), static_cast<unsigned>((slots + kThreads - 1) / kThreads));
  const size_t starts_bytes = size_t{2} * (static_cast<size_t>(lists.S) + 1) * sizeof(int);
  count_work_kernel<<<blocks, kThreads, starts_bytes, stream>>>(lists, work, slots);
  check_launch(kOp, stream);
  const auto place = lists.end_query != nullptr ? place_work_kernel<true> : place_work_kernel<false>;
  place<<<blocks, kThreads, starts_bytes, stream>>>(lists, work, slots);
  check_launch(kOp, stream);
}

}  // namespace scfa::gpu

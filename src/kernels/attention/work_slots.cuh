// What the work lists are made of: the items that each slot of a head stands for (slots: see work_lists.cu), and
// counters of items by list and cost.
#pragma once
#include "kernels/attention/block_scan.cuh"
#include "kernels/attention/segments_gpu.cuh"

namespace scfa::gpu {

enum List { kQueryTiles, kKeyTiles, kWideQueryTiles, kWideKeyTiles, kSingleBlockSegments, kLists };

constexpr int kCostBins = 20;                // by powers of two: up to 2^18 rows
constexpr int kBinsPerList = 2 * kCostBins;  // of multi-block segments, then of single-block ones
constexpr int kBins = kLists * kBinsPerList;

__device__ constexpr inline bool is_of_keys(int list) {
  return list == kKeyTiles || list == kWideKeyTiles;
}
__device__ constexpr inline int rows_of_tile(int list) {
  return static_cast<int>(list == kWideQueryTiles || list == kWideKeyTiles ? kWideTileRows : kTileRows);
}
__device__ inline int tiles_of(int rows, int tile_rows) {
  return max((rows + tile_rows - 1) / tile_rows, 1);
}
__device__ inline int cost_bin(int cost) {
  return kCostBins - 1 - min(kCostBins - 1, 32 - __clz(cost));  // the most expensive first
}
inline int slots_of(const SegmentLists& lists) {
  return lists.S + lists.T / static_cast<int>(kTileRows) + 1;
}

// A number of items and, of key tiles, the number of blocks of queries that their segments have: one 64-bit atomic adds
// up both, so that both are in one order.
struct Count {
  unsigned long long value;  // as atomicAdd has it
  __device__ static Count of(int items, int query_blocks) {
    return {static_cast<unsigned long long>(query_blocks) << 32 | static_cast<unsigned>(items)};
  }
  __device__ int items() const { return static_cast<int>(value); }
  __device__ int query_blocks() const { return static_cast<int>(value >> 32); }
};

// atomicAdd to counters[bin] in shared memory, once for all lanes of the warp that are here with the same bin: on 64
// bits it is a loop of compare-and-swap. Returns what was there before this lane's.
__device__ inline Count add(Count* counters, int bin, Count count) {
  const unsigned peers = __match_any_sync(__activemask(), bin);
  const int lane = threadIdx.x % 32, leader = __ffs(static_cast<int>(peers)) - 1;
  unsigned long long before = 0, sum = 0;
  for (unsigned rest = peers; rest != 0; rest &= rest - 1) {
    const int other = __ffs(static_cast<int>(rest)) - 1;
    const unsigned long long theirs = __shfl_sync(peers, count.value, other);
    sum += theirs;
    if (other < lane) before += theirs;
  }
  unsigned long long start = 0;
  if (lane == leader) start = atomicAdd(&counters[bin].value, sum);
  return {__shfl_sync(peers, start, leader) + before};
}

// Where the kernels write, and their counters.
struct WorkListParams {
  QueryTile *query_tiles, *wide_query_tiles;
  KeyTile *key_tiles, *wide_key_tiles;
  SingleBlockSegment* single_block_segments;
  WorkCounts* counts;
  int single_block_max_rows, l2_group_max_rows;
  Count* total;   // [kBins]: of all heads
  Count* placed;  // [kBins]: what blocks have asked room for
  int* untied_heads;
};
constexpr size_t kCounterBytes = (2 * kBins + 1) * sizeof(Count);
static_assert(kCounterBytes <= kWorkListBytes);

// What a slot stands for in one list: a query tile, a single-block segment, or all key tiles of a segment. Outer rows
// are queries, or keys in lists of key tiles; inner rows are the others.
struct SlotItem {
  int head, segment, first, rows, outer_offset, inner_offset;
  int inner_rows;       // of a query tile: the end of the keys that it sees
  int inner_begin = 0;  // of a query tile: their begin
};

// Where a head's segments start in the sorted lists, in shared memory. By all threads of a block.
struct Starts {
  const int *q, *k;  // S + 1 each
  __device__ Starts(int* shared, const SegmentLists& lists, int64_t head) : q(shared), k(shared + lists.S + 1) {
    for (int s = threadIdx.x; s <= lists.S; s += blockDim.x) {
      shared[s] = lists.q_begin[head * (lists.S + 1) + s];
      shared[lists.S + 1 + s] = lists.k_begin[head * (lists.S + 1) + s];
    }
    __syncthreads();
  }
};

// Calls found(list, bin, item, count) for what a slot of a head stands for, at most once for each list.
template <class Call>
__device__ inline void for_slot(const SegmentLists& lists, const Starts& head_starts, const WorkListParams& work,
                                int head, int slot, const Call& found) {
  const int S = lists.S, list_begin = head * lists.T;
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    const bool of_keys = is_of_keys(list);
    const int *starts = of_keys ? head_starts.k : head_starts.q,
              *inner_starts = of_keys ? head_starts.q : head_starts.k;
    const int tile_rows = rows_of_tile(list);
    int segment, first;
    if (slot < S) {
      segment = slot, first = 0;
    } else {
      const int64_t row = int64_t{slot - S} * tile_rows;
      if (of_keys || list == kSingleBlockSegments || row >= starts[S]) continue;
      segment = segment_at(starts, S, row);
      const int tile = (static_cast<int>(row) - starts[segment] + tile_rows - 1) / tile_rows;
      if (tile == 0) continue;
      first = tile * tile_rows;
    }
    const int rows = starts[segment + 1] - starts[segment],
              inner_rows = inner_starts[segment + 1] - inner_starts[segment];
    const bool is_single_block = max(rows, inner_rows) <= work.single_block_max_rows;
    const int bins = list * kBinsPerList + (is_single_block ? kCostBins : 0);
    SlotItem item{
        head,      segment, first, rows, list_begin + starts[segment] + first, list_begin + inner_starts[segment],
        inner_rows};
    if (of_keys) {
      if (rows + inner_rows > 0)
        found(list, bins + cost_bin(inner_rows), item,
              Count::of(tiles_of(rows, tile_rows), (inner_rows + kQueryBlock - 1) / kQueryBlock));
    } else if (list == kSingleBlockSegments) {
      if (is_single_block && rows + inner_rows > 0)
        found(list, list * kBinsPerList + cost_bin(rows + inner_rows), item, Count::of(1, 0));
    } else if (first < rows) {
      item.rows = min(tile_rows, rows - first);
      const int visible = lists.end_key[item.outer_offset + item.rows - 1];
      const int begin = lists.begin_key != nullptr ? lists.begin_key[item.outer_offset] : 0;
      item.inner_begin = begin, item.inner_rows = visible;
      found(list, bins + cost_bin(max(rows, inner_rows) <= work.l2_group_max_rows ? inner_rows : visible - begin), item,
            Count::of(1, 0));
    }
  }
}

}  // namespace scfa::gpu

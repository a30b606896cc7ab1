// The work items of the GPU kernels, and the lists of them that build_segments makes. A thread block takes one item at
// a time from a list. Host, device and tests share these structs.
#pragma once
#include <array>
#include <cstdint>

#include "core/arena.h"
#include "core/tensor.h"

namespace scfa {

inline constexpr int64_t kTileRows = 128, kWideTileRows = 192;  // rows of a tile, at most
inline constexpr int kQueryBlock = 64;  // queries whose dq is summed up together: kBlockM of the Hopper backward

// Offsets count rows of the sorted lists of all heads: of q_index and end_key, or of k_index and begin_query.
// All other numbers count rows within the segment.

// Some queries of one segment of one head, and the keys of the segment that any of them sees.
struct alignas(16) QueryTile {
  int32_t head, segment;  // head: b * H + h
  int32_t first_query, num_queries;
  int32_t query_offset;        // of the tile's first query
  int32_t key_offset;          // of the segment's first key
  int32_t begin_key, end_key;  // begin_key is 0 without ranges
  friend auto operator<=>(const QueryTile&, const QueryTile&) = default;
};

// Some keys of one segment, and the queries of the segment that see any of them. The query ranges of a segment's tiles
// cover all its queries, including those that see no key: the first tile has begin_query 0, the last one ends with the
// last query, and a tile begins at or before the end of the previous one. A segment without keys has one tile, with
// num_keys 0.
struct alignas(16) KeyTile {
  int32_t head, segment;
  int32_t first_key, num_keys;
  int32_t key_offset;    // of the tile's first key
  int32_t query_offset;  // of the segment's first query
  int32_t begin_query, end_query;
  int32_t next_begin_query;    // begin_query of the segment's next key tile; INT32_MAX in the last one
  int32_t dq_block;            // how many query blocks (kQueryBlock each) the segments earlier in the list have; modulo
                               // ring_blocks it is where the segment's first one is in dq_ring
  int32_t previous_end_query;  // end_query of the segment's previous key tile; 0 in the first one
  int32_t num_queries;         // of the segment
  friend auto operator<=>(const KeyTile&, const KeyTile&) = default;
};

// A segment that one thread block can take whole.
struct alignas(16) SingleBlockSegment {
  int32_t head, segment;
  int32_t num_queries, num_keys;
  int32_t query_offset, key_offset;  // of its first query and key
  int32_t unused[2];
  friend auto operator<=>(const SingleBlockSegment&, const SingleBlockSegment&) = default;
};

// How many items each list has. multi_block_*: how many of them belong to multi-block segments.
struct WorkCounts {
  int32_t query_tiles, key_tiles, wide_query_tiles, wide_key_tiles, single_block_segments;
  int32_t multi_block_query_tiles, multi_block_key_tiles, multi_block_wide_query_tiles, multi_block_wide_key_tiles;
  int32_t untied_heads;  // heads that have a row whose query and key are in different segments
};

// A single-block segment has at most single_block_max_rows queries and as many keys; all others are multi-block
// segments. Lists of tiles have the tiles of multi-block segments first, then those of single-block segments; within
// either part the most expensive come first (see build_segments). The key tiles of a segment stand side by side, the
// last one first. Each single-block segment that has rows is also one item of single_block_segments, the largest first.
struct WorkLists {
  Tensor query_tiles, key_tiles;            // of kTileRows
  Tensor wide_query_tiles, wide_key_tiles;  // of kWideTileRows
  Tensor single_block_segments;
  Tensor counts;  // one WorkCounts
  int64_t single_block_max_rows = 0;

  const WorkCounts* device_counts() const { return static_cast<const WorkCounts*>(counts.data); }

  using Member = Tensor WorkLists::*;
  struct List {
    const char* name;
    Member tensor;
    int64_t capacity, words;  // the tensor is (capacity, words) i32
  };
  // All of them for B sequences, H heads, T positions and S segments.
  static std::array<List, 6> layout(int64_t B, int64_t H, int64_t T, int64_t S);
};

// On the CPU without tensors.
WorkLists plan_work_lists(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t S);

template <class Item>
inline constexpr int64_t kWordsOf = sizeof(Item) / sizeof(int32_t);

inline int64_t tile_capacity(int64_t B, int64_t H, int64_t T, int64_t S, int64_t rows = kTileRows) {
  return B * H * (T / rows + S);  // of each segment at most one tile is not full
}

// The limit of single-block segments. With one of them per SM, their sums of dq in f32 stay in the L2 cache of a Hopper
// GPU.
inline constexpr int64_t kSingleBlockMaxRows = 1536, kSingleBlockMaxRowsD128 = kSingleBlockMaxRows / 2;
inline constexpr int64_t single_block_max_rows_of(int64_t D) {
  return D <= 64 ? kSingleBlockMaxRows : kSingleBlockMaxRowsD128;
}
// Where all heads together have at least kL2GroupMinRows rows, query tiles of segments of up to kL2GroupMaxRows rows
// are ordered by the cost of their segment and not by their own. The tiles of a segment, and of a head, are then near
// one another in the list and find its keys in the L2 cache. One tile is a small part of the whole, so it does not
// matter that the most expensive tile may not come first.
inline constexpr int64_t kL2GroupMinRows = 1 << 19, kL2GroupMaxRows = kSingleBlockMaxRows;

}  // namespace scfa

// Who may see whom. Every query and every key of a head belongs to one segment or to none; a query sees the keys of its
// own segment that are not later than itself. Within a segment, queries and keys are listed in position order, so the
// keys that a query sees are always a prefix of the segment's key list. Patterns only choose segments; everything
// behind this header is shared by all of them.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/context.h"

namespace scfa {

inline constexpr uint16_t kNoSegment = 0xFFFF;  // a dropped row: a query that sees nothing, a key that nobody sees
inline constexpr int64_t kMaxSegments = 4096;

// B sequences, H heads, T positions, S segments. "Sorted" arrays list rows by segment, then position; segment s of
// sequence b and head h owns entries [begin[b, h, s], begin[b, h, s + 1]); entries past begin[b, h, S] are undefined.
struct Segments {
  Tensor q_segment, k_segment;  // (B, H, T) u16, the segment of each row or kNoSegment; chosen by a pattern
  Tensor q_begin, k_begin;      // (B, H, S + 1) i32
  Tensor q_index, k_index;      // (B, H, T) i32, sorted: the position of the row
  Tensor num_visible_keys;      // (B, H, T) i32, sorted queries: how many keys of its segment the query sees
  Tensor first_query;           // (B, H, T) i32, sorted keys: the first query of its segment that sees the key
  // GPU only: the work lists. A tile is up to kTileRows rows of one segment of one head. Rows of the tile are called
  // outer, rows of the other kind inner: a query tile has outer queries and inner keys, a key tile the reverse. An
  // entry is (head, segment, first, rows, outer, inner, begin, end, next, place, 0, 0):
  //   head          b * H + h
  //   first, rows   the tile's first row within the segment, and how many rows the tile has
  //   outer, inner  where the tile's rows, and the segment's inner rows, start in the sorted lists of all heads
  //   begin, end    which inner rows the tile meets: those that it sees, or that see it
  //   next          of a key tile: the first query that sees the next tile; INT32_MAX in the last tile
  //   place         of a key tile: how many blocks of kQueryBlock queries the segments before in the list have
  // A single-block segment has at most single_block_max_rows queries and as many keys: one thread block can take it
  // whole. All others are multi-block segments. Their tiles come first, then those of single-block segments; within
  // either part the most expensive come first. The key tiles of a segment are side by side, the last one first. The
  // first key tile may have no rows; its begin is 0 in any case.
  // q_wide_tiles and k_wide_tiles have tiles of kWideTileRows rows. single_block_segments has an entry (head, segment,
  // queries, keys, outer, inner, 0 ...) for each single-block segment that has rows, the largest first; outer and
  // inner as in a query tile.
  Tensor q_tiles, k_tiles;            // (tile_capacity, kTileEntry) i32
  Tensor q_wide_tiles, k_wide_tiles;  // (tile_capacity of wide tiles, kTileEntry) i32
  Tensor single_block_segments;       // (B * H * S, kTileEntry) i32
  Tensor tile_count;                  // (kTileCounts) i32: counts, mostly of entries that are filled: see TileCount
  int64_t single_block_max_rows = 0;
  int64_t count() const { return q_begin.size(2) - 1; }
};

inline constexpr int64_t kTileRows = 128, kWideTileRows = 192, kTileEntry = 12;
inline constexpr int64_t kQueryBlock = 64;
// The limit of single-block segments: with one of them per SM, their sums of dq in f32 stay in the L2 cache of a Hopper
// GPU.
inline constexpr int64_t kSingleBlockMaxRows = 1536, kSingleBlockMaxRowsD128 = kSingleBlockMaxRows / 2;
// Where all heads together have at least kL2GroupMinRows rows, query tiles of segments of up to kL2GroupMaxRows rows
// are ordered by the cost of their segment and not by their own. The tiles of a segment, and of a head, are then near
// one another in the list and find its keys in the L2 cache. One tile is a small part of the whole, so it does not
// matter that the most expensive tile may not come first.
inline constexpr int64_t kL2GroupMinRows = 1 << 19, kL2GroupMaxRows = kSingleBlockMaxRows;
inline constexpr int64_t single_block_max_rows_of(int64_t D) {
  return D <= 64 ? kSingleBlockMaxRows : kSingleBlockMaxRowsD128;
}
enum TileCount : int {  // NOLINT(cppcoreguidelines-use-enum-class): indices
  kQueryTiles,
  kKeyTiles,
  kWideQueryTiles,
  kWideKeyTiles,
  kSingleBlockSegments,
  kMultiBlockQueryTiles,  // those of q_tiles that belong to multi-block segments, and so on
  kMultiBlockKeyTiles,
  kMultiBlockWideQueryTiles,
  kMultiBlockWideKeyTiles,
  kUntiedHeads,  // heads that have a row whose query and key are in different segments
  kTileCounts
};
inline int64_t tile_capacity(int64_t B, int64_t H, int64_t T, int64_t count, int64_t rows = kTileRows) {
  return B * H * (T / rows + count);  // of each segment at most one tile is not full
}

// D: the width of a head, for which single_block_max_rows is chosen.
Segments plan_segments(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t count);

// Fills everything but q_segment and k_segment from those two by one stable counting sort. On the GPU also the lists of
// tiles. A query tile costs num_visible_keys of its last row, or with L2 grouping (kL2GroupMaxRows) the number of keys
// of its segment. A key tile costs the number of queries of its segment. Costs are compared by powers of two; tiles of
// about the same cost may be in any order.
// attend_self: whether a query sees a key at its own position. Deterministic. A segment id that is neither below
// count() nor kNoSegment is an error on the CPU and means kNoSegment on the GPU, which cannot throw.
void build_segments(Context& ctx, const Segments& segments, bool attend_self);

// How the rows of a head spread over its segments, summed over sequences.
struct SegmentBalance {
  double pairs = 0;    // queries times keys of each segment, as a share of T^2: what is left of dense attention's work
  double largest = 0;  // share of the queries that are in the largest segment
  int64_t sequences = 0;
  // As many segments of one size would leave as much work; infinite where nobody is left.
  double effective_segments() const { return static_cast<double>(sequences) / pairs; }
  double largest_share() const { return largest / static_cast<double>(sequences); }
};

// Adds the first `sequences` sequences of what build_segments made to of_head (H), on either device. Waits for it.
void add_balance(Context& ctx, std::vector<SegmentBalance>& of_head, const Segments& segments, int64_t sequences);

namespace cpu {
decltype(scfa::build_segments) build_segments;
}
namespace gpu {
decltype(scfa::build_segments) build_segments;
}
}  // namespace scfa

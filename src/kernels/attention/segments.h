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
  Tensor k_limit;               // (B, H, T) i32, sorted queries: how many keys of its segment the query sees
  Tensor q_first;               // (B, H, T) i32, sorted keys: the first query of its segment that sees the key
  // GPU only: what there is to do. A tile is up to kTileRows rows of one segment of one head: an entry is (head,
  // segment, first, rows, own, other, begin, end, next, place, 0, 0): head b * H + h; the tile's first row within the
  // segment and how many it has; where it starts in the sorted lists of all heads; where the segment's rows of the
  // other side start there; and from which of those to which the tile sees or is seen. Tiles of long segments come
  // first, those of short ones (at most short_rows queries and keys) behind them; the dearest first in either part. The
  // tiles of keys of a segment are side by side, the last one first; the first one, which may have no rows, is seen
  // from the segment's first query on whatever it has. next: the first query that sees the next tile, INT32_MAX behind
  // the last. place: how many blocks of kQueryBlock queries the segments before in the list have. q_wide_tiles and
  // k_wide_tiles are the same of kWideTileRows rows. short_segments has an entry (head, segment, queries, keys, own,
  // other, 0 ...) for each short segment that has rows, the largest first; own and other as in a tile of queries.
  Tensor q_tiles, k_tiles;            // (tile_capacity, kTileEntry) i32
  Tensor q_wide_tiles, k_wide_tiles;  // (tile_capacity of wide tiles, kTileEntry) i32
  Tensor short_segments;              // (B * H * S, kTileEntry) i32
  Tensor tile_count;                  // (kTileCounts) i32: counts, mostly of entries that are filled: see TileCount
  int64_t short_rows = 0;
  int64_t count() const { return q_begin.size(2) - 1; }
};

inline constexpr int64_t kTileRows = 128, kWideTileRows = 192, kTileEntry = 12;
inline constexpr int64_t kQueryBlock = 64;
// What makes a segment short: sums of dq of one a multiprocessor, in f32, are to stay in the L2 cache of a Hopper GPU.
inline constexpr int64_t kShortRows = 1536, kShortRowsOfWide = kShortRows / 2;
// Where all heads have many rows, tiles of queries of segments of up to kTogetherRows come by what the segment costs,
// so that those of a segment, and of a head, are near one another and find its keys in the L2 cache. A tile costs
// little then beside the whole: it does not matter whether the dearest comes first.
inline constexpr int64_t kManyRows = 1 << 19, kTogetherRows = kShortRows;
inline constexpr int64_t short_rows_of(int64_t D) {
  return D <= 64 ? kShortRows : kShortRowsOfWide;
}
enum TileCount : int {  // NOLINT(cppcoreguidelines-use-enum-class): indices
  kQueryTiles,
  kKeyTiles,
  kWideQueryTiles,
  kWideKeyTiles,
  kShortSegments,
  kLongQueryTiles,  // those of q_tiles that belong to long segments, and so on
  kLongKeyTiles,
  kLongWideQueryTiles,
  kLongWideKeyTiles,
  kUntiedHeads,  // heads that have a row whose query and key are in different segments
  kTileCounts
};
inline int64_t tile_capacity(int64_t B, int64_t H, int64_t T, int64_t count, int64_t rows = kTileRows) {
  return B * H * (T / rows + count);  // of each segment at most one tile is not full
}

// D: the width of a head, for which short_rows is chosen.
Segments plan_segments(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t count);

// Fills everything but q_segment and k_segment from those two by one stable counting sort. On the GPU also the lists of
// tiles: a tile of queries costs what its last row's k_limit says, or where segments stay together what its segment has
// of keys, tiles of keys what their segment has of queries; the order of what costs about the same is free.
// attend_self: whether a query sees a key at its own position. Deterministic. A segment id that is neither below
// count() nor kNoSegment is an error on the CPU and means kNoSegment on the GPU, which cannot throw.
void build_segments(Context& ctx, const Segments& segments, bool attend_self);

// How the rows of a head spread over its segments, summed over sequences.
struct SegmentSpread {
  double pairs = 0;    // queries times keys of each segment, as a share of T^2: what is left of dense attention's work
  double largest = 0;  // share of the queries that are in the largest segment
  int64_t sequences = 0;
  // As many segments of one size would leave as much work; infinite where nobody is left.
  double effective_segments() const { return static_cast<double>(sequences) / pairs; }
  double largest_share() const { return largest / static_cast<double>(sequences); }
};

// Adds the first `sequences` sequences of what build_segments made to of_head (H), on either device. Waits for it.
void add_spread(Context& ctx, std::vector<SegmentSpread>& of_head, const Segments& segments, int64_t sequences);

namespace cpu {
decltype(scfa::build_segments) build_segments;
}
namespace gpu {
decltype(scfa::build_segments) build_segments;
}
}  // namespace scfa

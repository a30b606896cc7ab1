// Who may see whom. Every query and every key of a head belongs to one segment or to none; a query sees the keys of its
// own segment that are not later than itself. Within a segment, queries and keys are listed in position order, so the
// keys that a query sees are always a prefix of the segment's key list. Patterns only choose segments; everything
// behind this header is shared by all of them.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/attention/work_items.h"

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
  // With a window only, otherwise empty:
  Tensor first_visible_key;  // (B, H, T) i32, sorted queries: the first key of its segment that the query sees
  Tensor end_query;          // (B, H, T) i32, sorted keys: behind the last query of its segment that sees the key
  WorkLists work;            // GPU only
  int64_t count() const { return q_begin.size(2) - 1; }
};

// D: the width of a head, for which single_block_max_rows is chosen. windowed: build_segments is to be given a window.
Segments plan_segments(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t count, bool windowed = false);

// Which keys of its segment a query sees, by position.
struct Visibility {
  bool attend_self = true;  // a key at its own position
  int64_t window = 0;       // keys less than so many positions back, its own position included; 0: all earlier ones
};

// Fills everything but q_segment and k_segment from those two by one stable counting sort. On the GPU also the work
// lists. A query tile costs num_visible_keys of its last row, or with L2 grouping (kL2GroupMaxRows) the number of keys
// of its segment; a key tile costs the number of queries of its segment; a single-block segment costs the sum of both.
// Costs are compared by powers of two; items of about the same cost may be in any order.
// Throws Error if there is a window where none was planned, or the reverse. Deterministic. A segment id that is neither
// below count() nor kNoSegment is an error on the CPU and means kNoSegment on the GPU, which cannot throw.
void build_segments(Context& ctx, const Segments& segments, const Visibility& visibility);

// How the rows of a head spread over its segments, summed over sequences. A window is not taken into account.
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

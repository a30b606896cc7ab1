// Which keys a query sees. Every query and every key of a head belongs to one segment or to none; a query sees keys of
// its own segment that are not later than itself, as Visibility and documents allow. Within a segment, queries and keys
// are listed in position order, so the keys that a query sees are a range of the segment's key list (a prefix without
// window and documents), and both ends are non-decreasing from query to query. Patterns only choose segments; the rest
// is common to all patterns.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/attention/work_items.h"

namespace scfa {

inline constexpr uint16_t kNoSegment = 0xFFFF;  // a dropped row: a query that sees nothing, a key that nobody sees
inline constexpr int64_t kMaxSegments = 4096;
inline constexpr int64_t kMaxRelations = 8;  // per layer; each is one Segments

// B sequences, H heads, T positions, S segments. "Sorted" arrays list rows by segment, then position; segment s of
// sequence b and head h owns entries [begin[b, h, s], begin[b, h, s + 1]); entries past begin[b, h, S] are undefined.
struct Segments {
  Tensor q_segment, k_segment;  // (B, H, T) u16, the segment of each row or kNoSegment; chosen by a pattern
  Tensor q_begin, k_begin;      // (B, H, S + 1) i32
  Tensor q_index, k_index;      // (B, H, T) i32, sorted: the position of the row
  // Counted within the segment; ends are exclusive.
  Tensor end_key;      // (B, H, T) i32, sorted queries: end of the keys that it sees
  Tensor begin_query;  // (B, H, T) i32, sorted keys: the first query that sees the key
  // With ranges only, otherwise empty, as if they were 0 and the number of the segment's queries:
  Tensor begin_key;  // (B, H, T) i32, sorted queries: the first key that it sees
  Tensor end_query;  // (B, H, T) i32, sorted keys: end of the queries that see the key
  WorkLists work;    // GPU only
  bool has_ranges() const { return begin_key.data != nullptr; }
  int64_t count() const { return q_begin.size(2) - 1; }
};

// D: the head dim, which determines single_block_max_rows. ranges: with begin_key and end_query, which windows and
// documents need.
Segments plan_segments(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t count, bool ranges = false);

// Which keys of its segment a query sees, by position, in some consecutive heads.
struct Visibility {
  bool attend_self = true;  // a key at its own position
  int64_t window = 0;       // sees only keys fewer than `window` positions back, its own included; 0: no limit
  int64_t heads = 0;        // number of consecutive heads; 0: all that remain
  int64_t gap = 0;          // does not see keys fewer than `gap` positions back; 0: none hidden
  // The distance in positions from a query to the nearest key that it may see.
  int64_t nearest() const { return std::max<int64_t>(gap, attend_self ? 0 : 1); }
};

// Computes all members but q_segment and k_segment from these two, by one stable counting sort per head; on the GPU
// also the work lists. The cost of a query tile is the number of keys that any of its rows sees, or with L2 grouping
// (kL2GroupMaxRows) the number of keys of its segment. The cost of a key tile is the number of queries of its segment,
// and that of a single-block segment the sum of its queries and keys. Lists are ordered by the power of two of the
// cost. Items of one power of two are in any order, which does not change the results of attention.
//   by_head         one entry per range of heads, in order, H heads in all
//   document_start  in (B, T) i32, or empty: for each token, the position of the first token of its document. The token
//                   sees no key before it. Non-decreasing along T
// Throws Error if there is a window or a document_start where no ranges were planned. Deterministic but for the order
// within a power of two. A segment id that is neither below count() nor kNoSegment is an error on the CPU, and means
// kNoSegment on the GPU, where a kernel cannot throw.
void build_segments(Context& ctx, const Segments& segments, std::span<const Visibility> by_head,
                    ConstTensor document_start = {});
inline void build_segments(Context& ctx, const Segments& segments, const Visibility& visibility,
                           ConstTensor document_start = {}) {
  build_segments(ctx, segments, std::span(&visibility, 1), document_start);
}

// Calls work(first_head, end_head, visibility) for each entry of by_head. Throws Error unless they are H heads.
template <class Work>
void for_each_visibility(std::span<const Visibility> by_head, int64_t H, const Work& work) {
  int64_t first = 0;
  for (const Visibility& visibility : by_head) {
    const int64_t end = visibility.heads > 0 ? first + visibility.heads : H;
    require(first < end && end <= H, "build_segments: visibility is given for more than ", H, " heads");
    work(first, end, visibility);
    first = end;
  }
  require(first == H, "build_segments: visibility is given for ", first, " of ", H, " heads");
}

// How evenly the rows of a head are distributed over its segments, summed over sequences. `pairs` ignores causality,
// windows, gaps and documents; `visible` does not.
struct SegmentBalance {
  double pairs = 0;    // queries times keys of each segment, as a share of T^2, summed over relations: what is left of
                       // dense attention's work
  double visible = 0;  // pairs of a query and a key that it sees, as a share of T (T + 1) / 2, summed over relations
  double largest = 0;  // share of the queries that are in the largest segment of any relation
  int64_t sequences = 0, counted = 0;  // counted: how many of them `visible` is summed over
  // The number of segments of equal size that would cost as much; infinite where pairs is 0.
  double effective_segments() const { return static_cast<double>(sequences) / pairs; }
  double largest_share() const { return largest / static_cast<double>(sequences); }
  double visible_share() const { return visible / static_cast<double>(counted); }
};

// Adds the first `sequences` sequences of a layer's built relations, on either device, to of_head (H). Waits for the
// device. counts_visible: also adds to `visible` and `counted`, for which every row is copied to the host.
void add_balance(Context& ctx, std::vector<SegmentBalance>& of_head, std::span<const Segments> relations,
                 int64_t sequences, bool counts_visible = true);

// Counts visible (query, key) pairs by head (H) in the first `sequences` sequences of a layer's built relations, on
// either device; a pair counts once for every relation in which it is seen. Waits for the device.
std::vector<double> count_pairs(Context& ctx, std::span<const Segments> relations, int64_t sequences);

namespace cpu {
void build_segments(Context& ctx, const Segments& segments, std::span<const Visibility> by_head,
                    ConstTensor document_start);
}
namespace gpu {
void build_segments(Context& ctx, const Segments& segments, std::span<const Visibility> by_head,
                    ConstTensor document_start);
}
}  // namespace scfa

// Segments for tests of attention: every array in guarded memory of its own, and ways of choosing who belongs where.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention/segments.h"
#include "support/array.h"
#include "support/gpu.h"

namespace scfa::test {

// Which segment each row belongs to, for a test to choose.
struct SegmentIds {
  Array q_segment, k_segment;  // (B, H, T)
  SegmentIds(int64_t B, int64_t H, int64_t T) : q_segment(DType::kU16, {B, H, T}), k_segment(DType::kU16, {B, H, T}) {}
};

class SegmentArrays : public SegmentIds {
 public:
  SegmentArrays(int64_t B, int64_t H, int64_t T, int64_t count);
  Segments view() const;
  void build(Context& ctx, bool attend_self) const { build_segments(ctx, view(), attend_self); }
  void poison();  // what build_segments fills

  int64_t single_block_max_rows = kSingleBlockMaxRows;

 private:
  friend class GpuSegments;
  std::array<Array*, 12> filled();

  Array q_begin_, k_begin_, q_index_, k_index_, num_visible_keys_, first_query_, q_tiles_, k_tiles_, q_wide_tiles_,
      k_wide_tiles_, single_block_segments_, tile_count_;
};

// A copy on the GPU, guard bands included.
class GpuSegments {
 public:
  GpuSegments(const Context& ctx, SegmentArrays& host);
  Segments view() const;
  void download(SegmentArrays& to) const;

 private:
  std::vector<GpuCopy> copies_;  // in the order of Segments
  int64_t single_block_max_rows_;
};

// Chooses q_segment and k_segment among `count` segments.
struct SegmentChoice {
  std::string name;
  std::function<void(SegmentIds&, int64_t count, uint64_t seed)> choose;
};

// One segment for all; random ones, shared by query and key or not; none, some or all rows dropped; queries and keys in
// segments that never meet; segments of 1, 63, 64 and 65 rows; everything in the last segment, so that others are
// empty.
const std::vector<SegmentChoice>& segment_choices();

}  // namespace scfa::test

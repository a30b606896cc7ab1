// Segments for tests of attention: in guarded memory, and ways of choosing who belongs where.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention/segments.h"
#include "support/array.h"
#include "support/guarded_memory.h"

namespace scfa::test {

// Which segment each row belongs to, for a test to choose.
struct SegmentIds {
  Array q_segment, k_segment;  // (B, H, T)
  SegmentIds(int64_t B, int64_t H, int64_t T) : q_segment(DType::kU16, {B, H, T}), k_segment(DType::kU16, {B, H, T}) {}
};

using ChooseSegments = std::function<void(SegmentIds&)>;

// Writes the ids chosen to q_segment and k_segment, on either device.
void write_ids(Context& ctx, const Segments& segments, const ChooseSegments& choose);

// Segments planned and built on either device. Lists start poisoned.
class GuardedSegments : public GuardedMemory {
 public:
  GuardedSegments(Context& ctx, int64_t B, int64_t H, int64_t T, int64_t count, int64_t D = 64, bool ranges = false)
      : GuardedMemory(ctx), segments(plan_segments(arena(), B, H, T, D, count, ranges)) {}

  void set(const ChooseSegments& choose) const { write_ids(context(), segments, choose); }
  void build(const Visibility& visibility) const { build_segments(context(), segments, visibility); }
  void build(std::span<const Visibility> by_head, const ConstTensor& document_start) const {
    build_segments(context(), segments, by_head, document_start);
  }
  void poison_lists() const;  // what build_segments fills
  Segments on_host() const;   // with all lists that the device has

  const Segments segments;
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

inline ChooseSegments chosen(const SegmentChoice& choice, int64_t count, uint64_t seed) {
  return [&choice, count, seed](SegmentIds& ids) { choice.choose(ids, count, seed); };
}

}  // namespace scfa::test

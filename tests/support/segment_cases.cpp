#include "support/segment_cases.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

namespace scfa::test {

namespace {

constexpr Tensor Segments::*kIds[] = {&Segments::q_segment, &Segments::k_segment};
constexpr Tensor Segments::*kLists[] = {&Segments::q_begin,   &Segments::k_begin,  &Segments::q_index,
                                        &Segments::k_index,   &Segments::end_key,  &Segments::begin_query,
                                        &Segments::begin_key, &Segments::end_query};
const std::array<WorkLists::List, 6>& work_lists() {
  static const std::array<WorkLists::List, 6> lists = WorkLists::layout(1, 1, 1, 1);
  return lists;
}

}  // namespace

void write_ids(Context& ctx, const Segments& segments, const ChooseSegments& choose) {
  const Tensor& like = segments.q_segment;
  SegmentIds ids(like.size(0), like.size(1), like.size(2));
  choose(ids);
  ctx.copy(segments.q_segment, ids.q_segment);
  ctx.copy(segments.k_segment, ids.k_segment);
}

void GuardedSegments::poison_lists() const {
  for (const auto list : kLists)
    if (segments.*list) poison(segments.*list);
  for (const WorkLists::List& list : work_lists())
    if (segments.work.*list.tensor) poison(segments.work.*list.tensor);
}

Segments GuardedSegments::on_host() const {
  Segments host = segments;
  for (const auto ids : kIds) host.*ids = GuardedMemory::on_host(segments.*ids);
  for (const auto list : kLists)
    if (segments.*list) host.*list = GuardedMemory::on_host(segments.*list);
  for (const WorkLists::List& list : work_lists())
    if (segments.work.*list.tensor) host.work.*list.tensor = GuardedMemory::on_host(segments.work.*list.tensor);
  return host;
}

namespace {

using Random = std::mt19937_64;

template <class Draw>
void draw_rows(const Array& segment, const Draw& draw) {
  for (int64_t i = 0; i < segment.view().numel(); ++i) segment.as<uint16_t>()[i] = static_cast<uint16_t>(draw());
}

void copy_rows(const Array& from, const Array& to) {
  std::copy_n(from.as<uint16_t>(), from.view().numel(), to.as<uint16_t>());
}

// Segments of 1, 63, 64, 65 and then 17 rows each, as far as T and count go, at positions in random order.
void fixed_sizes(SegmentIds& s, int64_t count, uint64_t seed) {
  Random random(seed);
  const int64_t T = s.q_segment.view().size(2), heads = s.q_segment.view().numel() / T;
  const int64_t sizes[] = {1, 63, 64, 65, 17};
  std::vector<int64_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), 0);
  for (int64_t head = 0; head < heads; ++head) {
    std::shuffle(positions.begin(), positions.end(), random);
    int64_t segment = 0, used = 0;
    for (const int64_t position : positions) {
      if (used == sizes[std::min<int64_t>(segment, 4)] && segment + 1 < count) ++segment, used = 0;
      ++used;
      s.q_segment.as<uint16_t>()[head * T + position] = static_cast<uint16_t>(segment);
    }
  }
  copy_rows(s.q_segment, s.k_segment);
}

void dropped(SegmentIds& s, int64_t count, uint64_t seed, unsigned percent) {
  Random random(seed);
  for (const Array* segment : {&s.q_segment, &s.k_segment})
    draw_rows(*segment,
              [&] { return random() % 100 < percent ? kNoSegment : random() % static_cast<uint64_t>(count); });
}

std::vector<SegmentChoice> make_choices() {
  return {{"one",
           [](SegmentIds& s, int64_t, uint64_t) {
             s.q_segment.fill(0);
             s.k_segment.fill(0);
           }},
          {"last",
           [](SegmentIds& s, int64_t count, uint64_t) {
             s.q_segment.fill(static_cast<double>(count - 1));
             s.k_segment.fill(static_cast<double>(count - 1));
           }},
          {"tied",
           [](SegmentIds& s, int64_t count, uint64_t seed) {
             Random random(seed);
             draw_rows(s.q_segment, [&] { return random() % static_cast<uint64_t>(count); });
             copy_rows(s.q_segment, s.k_segment);
           }},
          {"untied", [](SegmentIds& s, int64_t count, uint64_t seed) { dropped(s, count, seed, 0); }},
          {"some dropped", [](SegmentIds& s, int64_t count, uint64_t seed) { dropped(s, count, seed, 50); }},
          {"most dropped", [](SegmentIds& s, int64_t count, uint64_t seed) { dropped(s, count, seed, 95); }},
          {"all dropped", [](SegmentIds& s, int64_t count, uint64_t seed) { dropped(s, count, seed, 100); }},
          {"never meeting",
           [](SegmentIds& s, int64_t count, uint64_t) {
             s.q_segment.fill(0);
             s.k_segment.fill(count > 1 ? 1 : kNoSegment);
           }},
          {"sizes around a tile", fixed_sizes}};
}

}  // namespace

const std::vector<SegmentChoice>& segment_choices() {
  static const std::vector<SegmentChoice> choices = make_choices();
  return choices;
}

}  // namespace scfa::test

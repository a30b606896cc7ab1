#include "support/segment_cases.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace scfa::test {

SegmentArrays::SegmentArrays(int64_t B, int64_t H, int64_t T, int64_t count)
    : SegmentIds(B, H, T),
      q_begin_(DType::kI32, {B, H, count + 1}),
      k_begin_(DType::kI32, {B, H, count + 1}),
      q_index_(DType::kI32, {B, H, T}),
      k_index_(DType::kI32, {B, H, T}),
      num_visible_keys_(DType::kI32, {B, H, T}),
      first_query_(DType::kI32, {B, H, T}),
      q_tiles_(DType::kI32, {tile_capacity(B, H, T, count), kTileEntry}),
      k_tiles_(DType::kI32, {tile_capacity(B, H, T, count), kTileEntry}),
      q_wide_tiles_(DType::kI32, {tile_capacity(B, H, T, count, kWideTileRows), kTileEntry}),
      k_wide_tiles_(DType::kI32, {tile_capacity(B, H, T, count, kWideTileRows), kTileEntry}),
      single_block_segments_(DType::kI32, {B * H * count, kTileEntry}),
      tile_count_(DType::kI32, {kTileCounts}) {}

Segments SegmentArrays::view() const {
  return {q_segment,
          k_segment,
          q_begin_,
          k_begin_,
          q_index_,
          k_index_,
          num_visible_keys_,
          first_query_,
          q_tiles_,
          k_tiles_,
          q_wide_tiles_,
          k_wide_tiles_,
          single_block_segments_,
          tile_count_,
          single_block_max_rows};
}

std::array<Array*, 12> SegmentArrays::filled() {
  return {&q_begin_, &k_begin_, &q_index_,      &k_index_,      &num_visible_keys_,      &first_query_,
          &q_tiles_, &k_tiles_, &q_wide_tiles_, &k_wide_tiles_, &single_block_segments_, &tile_count_};
}

void SegmentArrays::poison() {
  for (Array* array : filled()) array->poison();
}

GpuSegments::GpuSegments(const Context& ctx, SegmentArrays& host) : single_block_max_rows_(host.single_block_max_rows) {
  copies_.emplace_back(ctx, host.q_segment);
  copies_.emplace_back(ctx, host.k_segment);
  for (const Array* array : host.filled()) copies_.emplace_back(ctx, *array);
}

Segments GpuSegments::view() const {
  const std::vector<GpuCopy>& c = copies_;
  return {
      c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13], single_block_max_rows_};
}

void GpuSegments::download(SegmentArrays& to) const {
  copies_[0].download(to.q_segment);
  copies_[1].download(to.k_segment);
  for (size_t i = 0; i < to.filled().size(); ++i) copies_[i + 2].download(*to.filled()[i]);
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

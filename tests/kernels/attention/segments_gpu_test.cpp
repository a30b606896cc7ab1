// The GPU implementation of build_segments: lists equal the CPU's bit for bit, tiles cover every row once.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "support/compare.h"
#include "support/segment_cases.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

// A segment of the CPU's lists.
struct Segment {
  int32_t head, segment, queries, keys;
  int32_t query_offset, key_offset;  // in the sorted lists of all heads
  bool is_single_block;
};

std::vector<Segment> all_segments(const Segments& lists) {
  const int64_t heads = lists.q_begin.size(0) * lists.q_begin.size(1), S = lists.count(), T = lists.q_segment.size(2);
  std::vector<Segment> segments;
  for (int64_t i = 0; i < heads * S; ++i) {
    const int64_t head = i / S, s = i % S;
    const int32_t *q = lists.q_begin.as<int32_t>() + head * (S + 1) + s,
                  *k = lists.k_begin.as<int32_t>() + head * (S + 1) + s;
    const int32_t queries = q[1] - q[0], keys = k[1] - k[0], base = static_cast<int32_t>(head * T);
    segments.push_back({static_cast<int32_t>(head), static_cast<int32_t>(s), queries, keys, base + q[0], base + k[0],
                        std::max(queries, keys) <= lists.work.single_block_max_rows});
  }
  return segments;
}

// A list as it must be, in any order: its items, and whether each is of a single-block segment.
template <class Item>
using Expected = std::vector<std::pair<Item, bool>>;

Expected<QueryTile> expected_query_tiles(const Segments& lists, int64_t tile_rows) {
  Expected<QueryTile> tiles;
  const auto rows = static_cast<int32_t>(tile_rows);
  for (const Segment& s : all_segments(lists))
    for (int32_t first = 0; first < s.queries; first += rows) {
      const int32_t queries = std::min(rows, s.queries - first), offset = s.query_offset + first;
      const int32_t visible = lists.end_key.as<int32_t>()[offset + queries - 1];
      tiles.push_back({{s.head, s.segment, first, queries, offset, s.key_offset,
                        lists.has_ranges() ? lists.begin_key.as<int32_t>()[offset] : 0, visible},
                       s.is_single_block});
    }
  return tiles;
}

Expected<SingleBlockSegment> expected_single_block_segments(const Segments& lists) {
  Expected<SingleBlockSegment> items;
  for (const Segment& s : all_segments(lists))
    if (s.queries + s.keys > 0 && s.is_single_block)
      items.push_back({{s.head, s.segment, s.queries, s.keys, s.query_offset, s.key_offset, {}}, true});
  return items;
}

// The items of a list of `count`; what is behind them is as it was before.
template <class Item>
void read_items(std::vector<Item>& items, const Tensor& list, int32_t count) {
  ASSERT_LE(count, list.size(0));
  const auto* words = list.as<int32_t>();
  for (int64_t i = count * kWordsOf<Item>; i < list.numel(); ++i) ASSERT_EQ(words[i], -1);
  const auto* first = reinterpret_cast<const Item*>(words);
  items.assign(first, first + count);
}

// Key tiles come segment by segment, multi-block ones first, then by the magnitude of their queries, each from its last
// tile to its first; dq_block counts blocks of queries up.
void check_key_tiles(const Tensor& list, int32_t count, int32_t multi_block_count, const Segments& lists,
                     int64_t tile_rows) {
  const std::vector<Segment> segments = all_segments(lists);
  std::vector<KeyTile> items;
  ASSERT_NO_FATAL_FAILURE(read_items(items, list, count));
  std::vector<bool> seen(segments.size());
  const auto rows = static_cast<int32_t>(tile_rows);
  int32_t at = 0, dq_block = 0, before = 64;
  while (at < count) {
    const KeyTile& item = items[static_cast<size_t>(at)];
    const int64_t number = item.head * lists.count() + item.segment;
    ASSERT_TRUE(item.segment >= 0 && item.segment < lists.count() && number >= 0 &&
                number < static_cast<int64_t>(segments.size()))
        << "item " << at;
    const Segment& s = segments[static_cast<size_t>(number)];
    ASSERT_FALSE(seen[static_cast<size_t>(number)]) << "a segment twice";
    seen[static_cast<size_t>(number)] = true;
    ASSERT_EQ(s.is_single_block, at >= multi_block_count)
        << "item " << at << " of " << multi_block_count << " of multi-block segments";
    const int32_t magnitude = std::bit_width(static_cast<uint32_t>(s.queries)) + (s.is_single_block ? 0 : 32);
    ASSERT_LE(magnitude, before) << "the longest first";
    before = magnitude;
    const int32_t tiles = std::max((s.keys + rows - 1) / rows, 1);
    const int32_t* begin_query = lists.begin_query.as<int32_t>() + s.key_offset;
    // Of the queries before tile `tile`, and of those from it on.
    const auto end_before = [&](int32_t tile) {
      if (tile == 0) return 0;
      return lists.has_ranges() && tile < tiles ? lists.end_query.as<int32_t>()[s.key_offset + tile * rows - 1]
                                                : s.queries;
    };
    const auto begin_of = [&](int32_t tile) {
      return tile == 0 ? 0 : std::min(begin_query[tile * rows], end_before(tile));
    };
    for (int32_t tile = tiles - 1; tile >= 0; --tile, ++at) {
      const int32_t first = tile * rows;
      const KeyTile expected = {s.head,
                                s.segment,
                                first,
                                std::min(rows, s.keys - first),
                                s.key_offset + first,
                                s.query_offset,
                                begin_of(tile),
                                end_before(tile + 1),
                                tile + 1 < tiles ? begin_of(tile + 1) : INT32_MAX,
                                dq_block,
                                end_before(tile),
                                s.queries};
      ASSERT_LT(at, count);
      ASSERT_TRUE(items[static_cast<size_t>(at)] == expected) << "item " << at;
    }
    dq_block += (s.queries + kQueryBlock - 1) / kQueryBlock;
  }
  for (size_t i = 0; i < segments.size(); ++i)
    ASSERT_EQ(seen[i], segments[i].queries + segments[i].keys > 0)
        << "segment " << segments[i].segment << " of head " << segments[i].head;
}

// The list has the expected items and no others; those of multi-block segments come first (multi_block_count of them,
// or -1 where the two kinds are mixed), the most expensive first in either part.
template <class Item, class Cost>
void check_list(const Tensor& list, int32_t count, int32_t multi_block_count, Expected<Item> expected,
                const Cost& cost) {
  ASSERT_EQ(count, static_cast<int32_t>(expected.size()));
  std::vector<Item> items;
  ASSERT_NO_FATAL_FAILURE(read_items(items, list, count));
  std::sort(expected.begin(), expected.end());
  int before = 32;
  int32_t at = 0;
  for (const Item& item : items) {
    if (at == multi_block_count) before = 32;
    const int magnitude = std::bit_width(static_cast<uint32_t>(cost(item)));
    ASSERT_LE(magnitude, before) << "the longest first";
    before = magnitude;
    const auto found = std::lower_bound(expected.begin(), expected.end(), std::pair(item, false));
    ASSERT_TRUE(found != expected.end() && found->first == item) << "item " << at;
    if (multi_block_count >= 0) {
      ASSERT_EQ(found->second, at >= multi_block_count)
          << "item " << at << " of " << multi_block_count << " of multi-block segments";
    }
    ++at;
  }
  std::sort(items.begin(), items.end());
  ASSERT_TRUE(std::adjacent_find(items.begin(), items.end()) == items.end()) << "an item twice";
}

int32_t untied_heads(const Segments& s) {
  const int64_t T = s.q_segment.size(2), heads = s.q_segment.numel() / T;
  const auto *q = s.q_segment.as<uint16_t>(), *k = s.k_segment.as<uint16_t>();
  int32_t count = 0;
  for (int64_t head = 0; head < heads; ++head)
    count += std::equal(q + head * T, q + (head + 1) * T, k + head * T) ? 0 : 1;
  return count;
}

void check_work(const Segments& got, const Segments& want) {
  const WorkLists& work = got.work;
  const auto& counts = *reinterpret_cast<const WorkCounts*>(work.counts.as<int32_t>());
  const std::vector<Segment> segments = all_segments(want);
  const bool many = want.q_segment.numel() >= kL2GroupMinRows;
  const auto cost = [&](const QueryTile& tile) {
    const Segment& s = segments[static_cast<size_t>(tile.head * want.count() + tile.segment)];
    return many && std::max(s.queries, s.keys) <= kL2GroupMaxRows ? s.keys : tile.end_key - tile.begin_key;
  };
  ASSERT_EQ(counts.untied_heads, untied_heads(got));
  check_list(work.query_tiles, counts.query_tiles, counts.multi_block_query_tiles,
             expected_query_tiles(want, kTileRows), cost);
  check_list(work.wide_query_tiles, counts.wide_query_tiles, counts.multi_block_wide_query_tiles,
             expected_query_tiles(want, kWideTileRows), cost);
  check_key_tiles(work.key_tiles, counts.key_tiles, counts.multi_block_key_tiles, want, kTileRows);
  check_key_tiles(work.wide_key_tiles, counts.wide_key_tiles, counts.multi_block_wide_key_tiles, want, kWideTileRows);
  check_list(work.single_block_segments, counts.single_block_segments, -1, expected_single_block_segments(want),
             [](const SingleBlockSegment& s) { return s.num_queries + s.num_keys; });
}

// Entries that nobody owns stay poisoned on either device, so the arrays are compared whole.
void check_equal(const Segments& got, const Segments& want) {
  const std::pair<const char*, Tensor Segments::*> arrays[] = {
      {"q_begin", &Segments::q_begin}, {"k_begin", &Segments::k_begin}, {"q_index", &Segments::q_index},
      {"k_index", &Segments::k_index}, {"end_key", &Segments::end_key}, {"begin_query", &Segments::begin_query}};
  std::vector<std::pair<const char*, Tensor Segments::*>> all(std::begin(arrays), std::end(arrays));
  if (want.has_ranges()) {
    all.emplace_back("begin_key", &Segments::begin_key);
    all.emplace_back("end_query", &Segments::end_query);
  }
  for (const auto& [name, member] : all) {
    const Tensor &a = got.*member, &b = want.*member;
    const auto *x = a.as<int32_t>(), *y = b.as<int32_t>();
    const auto [at, other] = std::mismatch(x, x + a.numel(), y);
    ASSERT_EQ(at, x + a.numel()) << name << " at " << at - x << " is " << *at << ", not " << *other;
  }
}

void check(const GuardedSegments& got, const GuardedSegments& want, bool attend_self) {
  want.build({attend_self});
  got.build({attend_self});
  const Segments lists = got.on_host();
  check_equal(lists, want.segments);
  if (!testing::Test::HasFatalFailure()) check_work(lists, want.segments);
}

void check(Context& ctx, const SegmentChoice& choice, int64_t B, int64_t H, int64_t T, int64_t S, bool attend_self) {
  Context cpu;
  const int64_t D = T % 2 == 0 ? 128 : 64;
  const GuardedSegments got(ctx, B, H, T, S, D), want(cpu, B, H, T, S, D);
  for (const GuardedSegments* segments : {&got, &want}) segments->set(chosen(choice, S, static_cast<uint64_t>(T * S)));
  check(got, want, attend_self);
  if (testing::Test::HasFatalFailure())
    FAIL() << choice.name << ", B " << B << ", H " << H << ", T " << T << ", " << S << " segments, self "
           << attend_self;
}

class SegmentsGpu : public GpuTest {};

TEST_F(SegmentsGpu, EqualTheCpu) {
  Context ctx(Device::kGpu);
  for (const int64_t T : {1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 4097})
    for (const int64_t S : {1, 2, 3, 8, 16, 64, 512, 4096})
      for (const SegmentChoice& choice : segment_choices())
        for (const bool self : {false, true}) {
          check(ctx, choice, 1 + T % 3, 1 + S % 3, T, S, self);
          if (HasFatalFailure()) return;
        }
}

// Windows and documents, by heads.
TEST_F(SegmentsGpu, RangesEqualTheCpu) {
  Context ctx(Device::kGpu), cpu;
  const std::vector<std::vector<Visibility>> of_heads = {
      {{true}}, {{true, 1}}, {{false, 5, 1}, {true, 0, 1}, {true, 64, 1}}, {{false, 300, 2}, {false, 100000}}};
  const int64_t B = 2, H = 3;
  for (const int64_t T : {1, 63, 129, 1000, 4097}) {
    Array documents(DType::kI32, {B, T});
    documents.assign(document_starts(B, T, 3));
    const GpuCopy documents_gpu(ctx, documents);
    for (const int64_t S : {1, 3, 16, 512})
      for (const SegmentChoice& choice : segment_choices())
        for (size_t i = 0; i < of_heads.size(); ++i)
          for (const bool with_documents : {false, true}) {
            const GuardedSegments got(ctx, B, H, T, S, 64, true), want(cpu, B, H, T, S, 64, true);
            for (const GuardedSegments* segments : {&got, &want})
              segments->set(chosen(choice, S, static_cast<uint64_t>(T * S)));
            want.build(of_heads[i], with_documents ? ConstTensor(documents) : ConstTensor());
            got.build(of_heads[i], with_documents ? ConstTensor(documents_gpu) : ConstTensor());
            const Segments lists = got.on_host();
            check_equal(lists, want.segments);
            if (!HasFatalFailure()) check_work(lists, want.segments);
            if (HasFatalFailure())
              FAIL() << choice.name << ", T " << T << ", " << S << " segments, visibility " << i << ", documents "
                     << with_documents;
          }
  }
}

// More entries than one launch takes; gaps in the first, or in a later one only.
TEST_F(SegmentsGpu, EachHeadMayHaveAVisibilityOfItsOwn) {
  Context ctx(Device::kGpu), cpu;
  const int64_t B = 2, H = 19, T = 500, S = 3;
  Array documents(DType::kI32, {B, T});
  documents.assign(document_starts(B, T, 3));
  const GpuCopy documents_gpu(ctx, documents);
  for (const bool ranges : {false, true})
    for (const bool with_documents : {false, true})
      for (const int64_t gap_head : {2, 17}) {
        if (with_documents && !ranges) continue;
        std::vector<Visibility> by_head;
        for (int64_t h = 0; h < H; ++h)
          by_head.push_back({h % 3 > 0, ranges ? h % 2 * (h + 1) : 0, 1, h == gap_head ? 9 : 0});
        for (const SegmentChoice& choice : segment_choices()) {
          const GuardedSegments got(ctx, B, H, T, S, 64, ranges), want(cpu, B, H, T, S, 64, ranges);
          for (const GuardedSegments* segments : {&got, &want}) segments->set(chosen(choice, S, 6));
          want.build(by_head, with_documents ? ConstTensor(documents) : ConstTensor());
          got.build(by_head, with_documents ? ConstTensor(documents_gpu) : ConstTensor());
          const Segments lists = got.on_host();
          check_equal(lists, want.segments);
          if (!HasFatalFailure()) check_work(lists, want.segments);
          if (HasFatalFailure())
            FAIL() << choice.name << ", ranges " << ranges << ", documents " << with_documents << ", gap of head "
                   << gap_head;
        }
      }
}

TEST_F(SegmentsGpu, LongSequences) {
  Context ctx(Device::kGpu);
  for (const int64_t T : {65536, 131072, 131041})
    for (const int64_t S : {1, 64, 4096})
      for (const SegmentChoice& choice : segment_choices()) {
        check(ctx, choice, 1, 2, T, S, S != 64);
        if (HasFatalFailure()) return;
      }
}

TEST_F(SegmentsGpu, ManyHeads) {
  Context ctx(Device::kGpu);
  for (const int64_t T : {1024, 4096})
    for (const int64_t S : {1, 3, 16})
      for (const size_t choice : {2, 3, 4}) check(ctx, segment_choices()[choice], 16, 12, T, S, false);
}

TEST_F(SegmentsGpu, TwoRunsAreTheSame) {
  Context ctx(Device::kGpu);
  const int64_t B = 2, H = 3, T = 4097, S = 64;
  const GuardedSegments first(ctx, B, H, T, S), again(ctx, B, H, T, S);
  for (const GuardedSegments* segments : {&first, &again}) segments->set(chosen(segment_choices()[4], S, 1));
  first.build({});
  const Segments want = first.on_host();
  for (int i = 0; i < 5; ++i) {
    again.build({});  // over what the last run left
    const Segments got = again.on_host();
    check_equal(got, want);
    check_work(got, want);
  }
}

// The GPU cannot throw: rows of segments that do not exist are in none.
TEST_F(SegmentsGpu, UnknownSegmentsMeanNone) {
  Context ctx(Device::kGpu);
  const int64_t T = 200, S = 4;
  Context cpu;
  const GuardedSegments got(ctx, 1, 1, T, S), want(cpu, 1, 1, T, S);
  const ChooseSegments choose = chosen(segment_choices()[4], S, 1);
  want.set(choose);
  const uint16_t unknown[] = {4, 5, 4096, 0xFFFE};
  int64_t changed = 0;
  got.set([&](SegmentIds& ids) {
    choose(ids);
    for (const Array* segment : {&ids.q_segment, &ids.k_segment})
      for (uint16_t* id = segment->as<uint16_t>(); id < segment->as<uint16_t>() + T; ++id)
        if (*id == kNoSegment) *id = unknown[changed++ % 4];
  });
  ASSERT_GT(changed, 100);
  check(got, want, true);
}

TEST_F(SegmentsGpu, MissingWorkListsAreNamed) {
  Context ctx(Device::kGpu);
  const GuardedSegments guarded(ctx, 1, 1, 10, 2);
  for (const WorkLists::List& list : WorkLists::layout(1, 1, 10, 2)) {
    Segments s = guarded.segments;
    s.work.*list.tensor = {};
    EXPECT_TRUE(fails_naming([&] { build_segments(ctx, s, Visibility()); }, {"build_segments: ", list.name}));
  }
  EXPECT_TRUE(
      fails_naming([&] { build_segments(ctx, guarded.on_host(), Visibility()); }, {"build_segments", "gpu", "cpu"}));
}

}  // namespace
}  // namespace scfa::test

// The GPU form of build_segments: lists equal the CPU's bit for bit, tiles cover every row once.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "support/compare.h"
#include "support/segment_cases.h"

namespace scfa::test {
namespace {

using Entry = std::array<int32_t, kTileEntry>;  // see segments.h

// A list as it must be, in any order, from the CPU's lists: its entries, and whether each is of a single-block segment.
using Expected = std::vector<std::pair<Entry, bool>>;

Expected expected_query_tiles(const Segments& lists, int64_t tile_rows) {
  const int64_t heads = lists.q_begin.size(0) * lists.q_begin.size(1), S = lists.count(), T = lists.q_segment.size(2);
  Expected tiles;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t s = 0; s < S; ++s) {
      const int32_t *at = lists.q_begin.as<int32_t>() + head * (S + 1) + s,
                    *there = lists.k_begin.as<int32_t>() + head * (S + 1) + s;
      const bool is_single_block = std::max(at[1] - at[0], there[1] - there[0]) <= lists.single_block_max_rows;
      for (int32_t first = 0; first < at[1] - at[0]; first += static_cast<int32_t>(tile_rows)) {
        const int32_t rows = std::min(static_cast<int32_t>(tile_rows), at[1] - at[0] - first);
        const int64_t outer = head * T + at[0] + first;
        tiles.push_back(
            {{static_cast<int32_t>(head), static_cast<int32_t>(s), first, rows, static_cast<int32_t>(outer),
              static_cast<int32_t>(head * T) + there[0], 0, lists.num_visible_keys.as<int32_t>()[outer + rows - 1]},
             is_single_block});
      }
    }
  return tiles;
}

// The entries of a list of `count`; what is behind them is as it was before.
void read_entries(std::vector<Entry>& entries, const Tensor& list, int32_t count) {
  ASSERT_LE(count, list.size(0));
  entries.resize(static_cast<size_t>(list.size(0)));
  std::copy_n(list.as<int32_t>(), list.numel(), entries.data()->data());
  for (auto i = static_cast<size_t>(count); i < entries.size(); ++i)
    for (const int32_t word : entries[i]) ASSERT_EQ(word, -1);
  entries.resize(static_cast<size_t>(count));
}

// Tiles of keys come segment by segment, multi-block ones first, then by the magnitude of their queries, each from its
// last tile to its first; `place` counts blocks of queries up.
void check_key_tiles(const Tensor& list, int32_t count, int32_t multi_block_count, const Segments& lists,
                     int64_t tile_rows) {
  const int64_t heads = lists.q_begin.size(0) * lists.q_begin.size(1), S = lists.count(), T = lists.q_segment.size(2);
  std::vector<Entry> entries;
  ASSERT_NO_FATAL_FAILURE(read_entries(entries, list, count));
  std::vector<bool> seen(static_cast<size_t>(heads * S));
  int32_t at = 0, place = 0, before = 64;
  while (at < count) {
    const int64_t head = entries[static_cast<size_t>(at)][0], s = entries[static_cast<size_t>(at)][1];
    ASSERT_TRUE(head >= 0 && head < heads && s >= 0 && s < S) << "entry " << at;
    ASSERT_FALSE(seen[static_cast<size_t>(head * S + s)]) << "a segment twice";
    seen[static_cast<size_t>(head * S + s)] = true;
    const int32_t *q = lists.q_begin.as<int32_t>() + head * (S + 1) + s,
                  *k = lists.k_begin.as<int32_t>() + head * (S + 1) + s;
    const int32_t queries = q[1] - q[0], keys = k[1] - k[0];
    const bool is_single_block = std::max(queries, keys) <= lists.single_block_max_rows;
    ASSERT_EQ(is_single_block, at >= multi_block_count)
        << "entry " << at << " of " << multi_block_count << " of multi-block segments";
    const int32_t magnitude = std::bit_width(static_cast<uint32_t>(queries)) + (is_single_block ? 0 : 32);
    ASSERT_LE(magnitude, before) << "the longest first";
    before = magnitude;
    const auto rows = static_cast<int32_t>(tile_rows), base = static_cast<int32_t>(head * T);
    const int32_t tiles = std::max((keys + rows - 1) / rows, 1);
    const int32_t* first_query = lists.first_query.as<int32_t>() + base + k[0];
    for (int32_t tile = tiles - 1; tile >= 0; --tile, ++at) {
      const int32_t first = tile * rows;
      const Entry expected = {static_cast<int32_t>(head),
                              static_cast<int32_t>(s),
                              first,
                              std::min(rows, keys - first),
                              base + k[0] + first,
                              base + q[0],
                              tile == 0 ? 0 : first_query[first],
                              queries,
                              tile + 1 < tiles ? first_query[first + rows] : INT32_MAX,
                              place};
      ASSERT_LT(at, count);
      ASSERT_EQ(entries[static_cast<size_t>(at)], expected) << "entry " << at;
    }
    place += (queries + kQueryBlock - 1) / kQueryBlock;
  }
  for (int64_t i = 0; i < heads * S; ++i) {
    const int64_t head = i / S, s = i % S;
    const int32_t *q = lists.q_begin.as<int32_t>() + head * (S + 1) + s,
                  *k = lists.k_begin.as<int32_t>() + head * (S + 1) + s;
    ASSERT_EQ(seen[static_cast<size_t>(i)], q[1] - q[0] + k[1] - k[0] > 0) << "segment " << s << " of head " << head;
  }
}

Expected expected_single_block_segments(const Segments& lists) {
  const int64_t heads = lists.q_begin.size(0) * lists.q_begin.size(1), S = lists.count(), T = lists.q_segment.size(2);
  Expected entries;
  for (int64_t i = 0; i < heads * S; ++i) {
    const int64_t head = i / S, s = i % S;
    const int32_t *q = lists.q_begin.as<int32_t>() + head * (S + 1) + s,
                  *k = lists.k_begin.as<int32_t>() + head * (S + 1) + s;
    const int32_t queries = q[1] - q[0], keys = k[1] - k[0], base = static_cast<int32_t>(head * T);
    if (queries + keys == 0 || std::max(queries, keys) > lists.single_block_max_rows) continue;
    entries.push_back(
        {{static_cast<int32_t>(head), static_cast<int32_t>(s), queries, keys, base + q[0], base + k[0], 0, 0}, true});
  }
  return entries;
}

// The list has the expected entries and no others; those of multi-block segments come first (multi_block_count of them,
// or -1 where the two kinds are mixed), the most expensive first in either part.
void check_list(const Tensor& list, int32_t count, int32_t multi_block_count, Expected expected,
                const std::function<int32_t(const Entry&)>& cost) {
  ASSERT_EQ(count, static_cast<int32_t>(expected.size()));
  std::vector<Entry> entries;
  ASSERT_NO_FATAL_FAILURE(read_entries(entries, list, count));
  std::sort(expected.begin(), expected.end());
  int before = 32;
  int32_t at = 0;
  for (const Entry& entry : entries) {
    if (at == multi_block_count) before = 32;
    const int magnitude = std::bit_width(static_cast<uint32_t>(cost(entry)));
    ASSERT_LE(magnitude, before) << "the longest first";
    before = magnitude;
    const auto found = std::lower_bound(expected.begin(), expected.end(), std::pair(entry, false));
    ASSERT_TRUE(found != expected.end() && found->first == entry) << "entry " << at;
    if (multi_block_count >= 0) {
      ASSERT_EQ(found->second, at >= multi_block_count)
          << "entry " << at << " of " << multi_block_count << " of multi-block segments";
    }
    ++at;
  }
  std::sort(entries.begin(), entries.end());
  ASSERT_TRUE(std::adjacent_find(entries.begin(), entries.end()) == entries.end()) << "an entry twice";
}

int32_t untied_heads(const Segments& s) {
  const int64_t T = s.q_segment.size(2), heads = s.q_segment.numel() / T;
  const auto *q = s.q_segment.as<uint16_t>(), *k = s.k_segment.as<uint16_t>();
  int32_t count = 0;
  for (int64_t head = 0; head < heads; ++head)
    count += std::equal(q + head * T, q + (head + 1) * T, k + head * T) ? 0 : 1;
  return count;
}

void check_tiles(const Segments& got, const Segments& want) {
  const auto* count = got.tile_count.as<int32_t>();
  const int64_t S = want.count();
  const bool many = want.q_segment.numel() >= kL2GroupMinRows;
  const auto pairs = [&](const Entry& e) {
    const auto size_of = [&](const Tensor& begin) {
      const int32_t* at = begin.as<int32_t>() + e[0] * (S + 1) + e[1];
      return at[1] - at[0];
    };
    const int32_t queries = size_of(want.q_begin), keys = size_of(want.k_begin);
    return many && std::max(queries, keys) <= kL2GroupMaxRows ? keys : e[7] - e[6];
  };
  ASSERT_EQ(count[kUntiedHeads], untied_heads(got));
  check_list(got.q_tiles, count[kQueryTiles], count[kMultiBlockQueryTiles], expected_query_tiles(want, kTileRows),
             pairs);
  check_list(got.q_wide_tiles, count[kWideQueryTiles], count[kMultiBlockWideQueryTiles],
             expected_query_tiles(want, kWideTileRows), pairs);
  check_key_tiles(got.k_tiles, count[kKeyTiles], count[kMultiBlockKeyTiles], want, kTileRows);
  check_key_tiles(got.k_wide_tiles, count[kWideKeyTiles], count[kMultiBlockWideKeyTiles], want, kWideTileRows);
  check_list(got.single_block_segments, count[kSingleBlockSegments], -1, expected_single_block_segments(want),
             [](const Entry& e) { return e[2] + e[3]; });
}

// Entries that nobody owns stay poisoned on either device, so the arrays are compared whole.
void check_equal(const Segments& got, const Segments& want) {
  const std::pair<const char*, Tensor Segments::*> arrays[] = {{"q_begin", &Segments::q_begin},
                                                               {"k_begin", &Segments::k_begin},
                                                               {"q_index", &Segments::q_index},
                                                               {"k_index", &Segments::k_index},
                                                               {"num_visible_keys", &Segments::num_visible_keys},
                                                               {"first_query", &Segments::first_query}};
  for (const auto& [name, member] : arrays) {
    const Tensor &a = got.*member, &b = want.*member;
    const auto *x = a.as<int32_t>(), *y = b.as<int32_t>();
    const auto [at, other] = std::mismatch(x, x + a.numel(), y);
    ASSERT_EQ(at, x + a.numel()) << name << " at " << at - x << " is " << *at << ", not " << *other;
  }
}

void check(const GuardedSegments& got, const GuardedSegments& want, bool attend_self) {
  want.build(attend_self);
  got.build(attend_self);
  const Segments lists = got.on_host();
  check_equal(lists, want.segments);
  if (!testing::Test::HasFatalFailure()) check_tiles(lists, want.segments);
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
  first.build(true);
  const Segments want = first.on_host();
  for (int i = 0; i < 5; ++i) {
    again.build(true);  // over what the last run left
    const Segments got = again.on_host();
    check_equal(got, want);
    check_tiles(got, want);
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

TEST_F(SegmentsGpu, MissingTileListsAreNamed) {
  Context ctx(Device::kGpu);
  const GuardedSegments guarded(ctx, 1, 1, 10, 2);
  const std::pair<const char*, Tensor Segments::*> lists[] = {
      {"q_tiles", &Segments::q_tiles},
      {"k_tiles", &Segments::k_tiles},
      {"q_wide_tiles", &Segments::q_wide_tiles},
      {"k_wide_tiles", &Segments::k_wide_tiles},
      {"single_block_segments", &Segments::single_block_segments},
      {"tile_count", &Segments::tile_count}};
  for (const auto& [name, member] : lists) {
    Segments s = guarded.segments;
    s.*member = {};
    EXPECT_TRUE(fails_naming([&] { build_segments(ctx, s, true); }, {"build_segments: ", name}));
  }
  EXPECT_TRUE(fails_naming([&] { build_segments(ctx, guarded.on_host(), true); }, {"build_segments", "gpu", "cpu"}));
}

}  // namespace
}  // namespace scfa::test

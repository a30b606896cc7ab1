#include "kernels/attention/segments.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/compare.h"
#include "support/formulas.h"
#include "support/segment_cases.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

using Positions = std::vector<std::vector<int64_t>>;  // [segment][rank]

Positions positions_of(const uint16_t* segment, int64_t T, int64_t S) {
  Positions of(static_cast<size_t>(S));
  for (int64_t t = 0; t < T; ++t)
    if (segment[t] != kNoSegment) of[segment[t]].push_back(t);
  return of;
}

// begin_key and end_query of the rows of one segment, likewise: not behind end_key, not before begin_query.
// first_visible(t): the first position that the token at t may see.
template <class FirstVisible>
void check_ranges(const int32_t* begin_key, const int32_t* end_query, const int32_t* end_key,
                  const int32_t* begin_query, const std::vector<int64_t>& q, const std::vector<int64_t>& k,
                  const FirstVisible& first_visible) {
  for (size_t i = 0; i < q.size(); ++i) {
    const auto hidden = std::count_if(k.begin(), k.end(), [&](int64_t key) { return key < first_visible(q[i]); });
    ASSERT_EQ(begin_key[i], std::min<int64_t>(hidden, end_key[i])) << "query at " << q[i];
  }
  for (size_t j = 0; j < k.size(); ++j) {
    const auto near = std::count_if(q.begin(), q.end(), [&](int64_t query) { return first_visible(query) <= k[j]; });
    ASSERT_EQ(end_query[j], std::max<int64_t>(near, begin_query[j])) << "key at " << k[j];
  }
}

// Checks one head against the definitions in segments.h, counting everything anew. document_start: of the sequence, or
// null.
void check_head(const Segments& s, int64_t head, const Visibility& which, const int32_t* document_start = nullptr) {
  const int64_t T = s.q_segment.size(2), S = s.count();
  const Positions queries = positions_of(s.q_segment.as<uint16_t>() + head * T, T, S);
  const Positions keys = positions_of(s.k_segment.as<uint16_t>() + head * T, T, S);
  const auto *q_begin = s.q_begin.as<int32_t>() + head * (S + 1), *k_begin = s.k_begin.as<int32_t>() + head * (S + 1);
  const auto *q_index = s.q_index.as<int32_t>() + head * T, *k_index = s.k_index.as<int32_t>() + head * T;
  const auto *end_key = s.end_key.as<int32_t>() + head * T, *begin_query = s.begin_query.as<int32_t>() + head * T;
  const auto sees = [&](int64_t query, int64_t key) { return query - key >= which.nearest(); };
  int64_t q_rows = 0, k_rows = 0;
  for (size_t segment = 0; segment < queries.size(); ++segment) {
    const auto &q = queries[segment], &k = keys[segment];
    ASSERT_EQ(q_begin[segment], q_rows);
    ASSERT_EQ(k_begin[segment], k_rows);
    for (size_t i = 0; i < q.size(); ++i) {
      ASSERT_EQ(q_index[q_rows + static_cast<int64_t>(i)], q[i]);
      const auto seen = std::count_if(k.begin(), k.end(), [&](int64_t key) { return sees(q[i], key); });
      ASSERT_EQ(end_key[q_rows + static_cast<int64_t>(i)], seen) << "query at " << q[i];
    }
    for (size_t j = 0; j < k.size(); ++j) {
      ASSERT_EQ(k_index[k_rows + static_cast<int64_t>(j)], k[j]);
      const auto blind = std::count_if(q.begin(), q.end(), [&](int64_t query) { return !sees(query, k[j]); });
      ASSERT_EQ(begin_query[k_rows + static_cast<int64_t>(j)], blind) << "key at " << k[j];
    }
    // The property that everything rests on: both numbers describe the same set of pairs.
    for (size_t i = 0; i < q.size() && T < 200; ++i)
      for (size_t j = 0; j < k.size(); ++j) {
        ASSERT_EQ(sees(q[i], k[j]), static_cast<int32_t>(j) < end_key[q_rows + static_cast<int64_t>(i)]);
        ASSERT_EQ(sees(q[i], k[j]), static_cast<int32_t>(i) >= begin_query[k_rows + static_cast<int64_t>(j)]);
      }
    if (s.has_ranges()) {
      const auto first_visible = [&](int64_t t) {
        const int64_t by_window = which.window == 0 ? 0 : std::max<int64_t>(0, t - which.window + 1);
        return document_start == nullptr ? by_window : std::max<int64_t>(by_window, document_start[t]);
      };
      const int64_t list = head * T;
      ASSERT_NO_FATAL_FAILURE(check_ranges(s.begin_key.as<int32_t>() + list + q_rows,
                                           s.end_query.as<int32_t>() + list + k_rows, end_key + q_rows,
                                           begin_query + k_rows, q, k, first_visible));
    }
    q_rows += static_cast<int64_t>(q.size());
    k_rows += static_cast<int64_t>(k.size());
  }
  ASSERT_EQ(q_begin[S], q_rows);
  ASSERT_EQ(k_begin[S], k_rows);
}

class SegmentsTest : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Lengths, SegmentsTest, testing::Values(1, 63, 64, 65, 127, 128, 129, 1000),
                         testing::PrintToStringParamName());

TEST_P(SegmentsTest, AreWhatTheyAreDefinedToBe) {
  Context ctx;
  const int64_t T = GetParam();
  for (const int64_t S : {1, 2, 3, 8, 16, 64, 4096})
    for (const SegmentChoice& choice : segment_choices())
      for (const bool self : {false, true}) {
        const int64_t B = 2, H = 2;
        const GuardedSegments guarded(ctx, B, H, T, S);
        guarded.set(chosen(choice, S, static_cast<uint64_t>(T * S)));
        for (const int64_t gap : {0, 1, 9}) {
          guarded.build({self, 0, 0, gap});
          for (int64_t head = 0; head < B * H; ++head) check_head(guarded.segments, head, {self, 0, 0, gap});
          if (HasFatalFailure()) FAIL() << choice.name << ", " << S << " segments, self " << self << ", gap " << gap;
        }
      }
}

// Windows and documents by heads; what is planned with ranges and has neither sees all that is earlier.
TEST_P(SegmentsTest, RangesAreWhatTheyAreDefinedToBe) {
  Context ctx;
  const int64_t T = GetParam(), B = 2, H = 3;
  const std::vector<std::vector<Visibility>> of_heads = {{{true}},
                                                         {{true, 1}},
                                                         {{false, 5, 1}, {true, 0, 1}, {true, 64, 1}},
                                                         {{false, 300, 2}, {false, T}},
                                                         {{true, 0, 1, 2}, {false, 0, 1, 40}, {true, 50, 1, 70}}};
  Array documents(DType::kI32, {B, T});
  documents.assign(document_starts(B, T, 3));
  for (const int64_t S : {1, 3, 64})
    for (const SegmentChoice& choice : segment_choices())
      for (const std::vector<Visibility>& by_head : of_heads)
        for (const bool with_documents : {false, true}) {
          const GuardedSegments guarded(ctx, B, H, T, S, 64, true);
          guarded.set(chosen(choice, S, static_cast<uint64_t>(T * S)));
          guarded.build(by_head, with_documents ? ConstTensor(documents) : ConstTensor());
          for (int64_t b = 0; b < B; ++b)
            for_each_visibility(by_head, H, [&](int64_t first, int64_t end, const Visibility& which) {
              for (int64_t h = first; h < end; ++h)
                check_head(guarded.segments, b * H + h, which,
                           with_documents ? documents.as<int32_t>() + b * T : nullptr);
            });
          if (HasFatalFailure()) FAIL() << choice.name << ", " << S << " segments, window " << by_head[0].window;
        }
}

TEST(Segments, WrongRangesAreNamed) {
  Context ctx;
  const GuardedSegments without(ctx, 2, 3, 10, 1), with(ctx, 2, 3, 10, 1, 64, true);
  for (const GuardedSegments* segments : {&without, &with}) segments->set(chosen(segment_choices()[0], 1, 0));
  const Array starts(DType::kI32, {2, 10}), longer(DType::kI32, {2, 11});
  const std::vector<Visibility> all{{}}, windowed{{true, 3}}, negative{{true, -1}}, few{{true, 0, 2}},
      many{{true, 0, 2}, {true, 0, 2}};
  EXPECT_TRUE(fails_naming([&] { without.build(windowed, {}); }, {"build_segments", "window", "no ranges"}));
  EXPECT_TRUE(fails_naming([&] { without.build(all, starts); }, {"build_segments", "documents", "no ranges"}));
  EXPECT_TRUE(fails_naming([&] { with.build(all, longer); }, {"build_segments", "document_start", "[2, 10]"}));
  EXPECT_TRUE(fails_naming([&] { with.build(negative, {}); }, {"build_segments", "window", "-1"}));
  EXPECT_TRUE(fails_naming([&] { with.build(few, {}); }, {"build_segments", "2 of 3 heads"}));
  EXPECT_TRUE(fails_naming([&] { with.build(many, {}); }, {"build_segments", "more than 3 heads"}));
}

TEST(Segments, NeverMeetingMeansNothingIsSeen) {
  Context ctx;
  const GuardedSegments guarded(ctx, 1, 1, 100, 2);
  guarded.set([](SegmentIds& ids) { ids.q_segment.fill(1), ids.k_segment.fill(0); });
  guarded.build({});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(guarded.segments.end_key.as<int32_t>()[i], 0);
    EXPECT_EQ(guarded.segments.begin_query.as<int32_t>()[i], 0);  // no query of the segment is before or after
  }
}

TEST(Segments, SameForAnyNumberOfThreads) {
  Context ctx;
  const GuardedSegments guarded(ctx, 3, 5, 300, 8);
  guarded.set(chosen(segment_choices()[3], 8, 1));
  const Segments& s = guarded.segments;
  std::vector<std::vector<double>> first;
  for (const int threads : {1, 2, 4}) {
    const Threads limit(threads);
    guarded.poison_lists();
    guarded.build({.attend_self = false});
    std::vector<std::vector<double>> now;
    for (const Tensor& t : {s.q_begin, s.k_begin, s.q_index, s.k_index, s.end_key, s.begin_query})
      now.push_back(values(t));
    if (first.empty()) first = now;
    EXPECT_EQ(now, first) << threads;
  }
}

TEST(Segments, PlanHasTheShapes) {
  Arena measured(Device::kCpu);
  plan_segments(measured, 2, 3, 65, 4, 8);
  ASSERT_EQ(measured.items().size(), 1u);
  Arena arena(Device::kCpu, measured.used());
  const Segments s = plan_segments(arena, 2, 3, 65, 4, 8);
  EXPECT_EQ(s.count(), 8);
  for (const Tensor& t : {s.q_segment, s.k_segment, s.q_index, s.k_index, s.end_key, s.begin_query})
    EXPECT_TRUE(t && t.has_shape({2, 3, 65}));
  for (const Tensor& t : {s.q_begin, s.k_begin}) EXPECT_TRUE(t && t.has_shape({2, 3, 9}));
  for (const int64_t count : {int64_t{0}, kMaxSegments + 1})
    EXPECT_TRUE(fails_naming([&] { plan_segments(arena, 1, 1, 8, 4, count); },
                             {"segments", "1 to 4096", std::to_string(count).c_str()}));
}

TEST(Segments, BalanceIsTheShareOfPairs) {
  Context ctx;
  const int64_t B = 3, H = 2, T = 100, S = 5;
  for (const SegmentChoice& choice : segment_choices()) {
    SCOPED_TRACE(choice.name);
    const GuardedSegments guarded(ctx, B, H, T, S);
    guarded.set(chosen(choice, S, 3));
    guarded.build({});
    std::vector<SegmentBalance> balance(H);
    add_balance(ctx, balance, {&guarded.segments, 1}, 1);
    add_balance(ctx, balance, {&guarded.segments, 1},
                2);  // the first once more, and the second; the third does not count
    for (int64_t h = 0; h < H; ++h) {
      double pairs = 0, largest = 0, visible = 0;
      for (const int64_t b : {0, 0, 1}) {
        const uint16_t *q = guarded.segments.q_segment.as<uint16_t>() + (b * H + h) * T,
                       *k = guarded.segments.k_segment.as<uint16_t>() + (b * H + h) * T;
        int64_t most = 0;
        for (int64_t segment = 0; segment < S; ++segment) {
          const auto queries = std::count(q, q + T, segment), keys = std::count(k, k + T, segment);
          pairs += static_cast<double>(queries * keys) / (T * T);
          most = std::max<int64_t>(most, queries);
        }
        largest += static_cast<double>(most) / T;
        for (int64_t i = 0; i < T; ++i)
          if (q[i] != kNoSegment) visible += static_cast<double>(std::count(k, k + i + 1, q[i]));
      }
      const SegmentBalance& got = balance[static_cast<size_t>(h)];
      EXPECT_EQ(got.sequences, 3);
      EXPECT_NEAR(got.pairs, pairs, 1e-12);
      EXPECT_NEAR(got.largest_share(), largest / 3, 1e-12);
      EXPECT_NEAR(got.visible_share(), visible / (T * (T + 1) / 2) / 3, 1e-12);
      if (pairs > 0) {
        EXPECT_NEAR(got.effective_segments(), 3 / pairs, 1e-9);
      }
    }
  }
  std::vector<SegmentBalance> wrong(H + 1);
  const GuardedSegments guarded(ctx, B, H, T, S);
  EXPECT_TRUE(fails_naming([&] { add_balance(ctx, wrong, {&guarded.segments, 1}, 1); }, {"add_balance", "3 heads"}));
  wrong.resize(H);
  EXPECT_TRUE(fails_naming(
      [&] {
        add_balance(ctx, wrong, {&guarded.segments, 1}, 4);
      },
      {"add_balance", "4 sequences"}));
}

TEST(Segments, BalanceCountsWhatWindowsAndDocumentsLeave) {
  Context ctx;
  const int64_t T = 60, window = 7, second = 25;
  const GuardedSegments guarded(ctx, 1, 2, T, 1, 64, true);
  guarded.set([](SegmentIds& ids) {
    for (const Array* segment : {&ids.q_segment, &ids.k_segment})
      std::fill_n(segment->as<uint16_t>(), 2 * T, uint16_t{0});
  });
  std::vector<int32_t> starts(T, 0);
  std::fill(starts.begin() + second, starts.end(), static_cast<int32_t>(second));
  const std::vector<Visibility> by_head{{true, window, 1}, {true, 0, 1}};
  guarded.build(by_head, ConstTensor(Tensor(starts.data(), DType::kI32, Device::kCpu, {1, T})));
  std::vector<SegmentBalance> balance(2);
  add_balance(ctx, balance, {&guarded.segments, 1}, 1);
  const auto triangle = [](int64_t n) { return static_cast<double>(n * (n + 1) / 2); };
  const auto in_window = [&](int64_t n) { return triangle(n) - triangle(n - window); };
  EXPECT_DOUBLE_EQ(balance[0].visible_share(), (in_window(second) + in_window(T - second)) / triangle(T));
  EXPECT_DOUBLE_EQ(balance[1].visible_share(), (triangle(second) + triangle(T - second)) / triangle(T));
  EXPECT_DOUBLE_EQ(balance[0].effective_segments(), 1);
}

// Pairs of all relations together, and the largest segment of any.
TEST(Segments, BalanceOfSeveralRelations) {
  Context ctx;
  const int64_t T = 60;
  const GuardedSegments halves(ctx, 1, 2, T, 2), one(ctx, 1, 2, T, 2);
  halves.set([&](SegmentIds& ids) {
    for (const Array* segment : {&ids.q_segment, &ids.k_segment})
      for (int64_t i = 0; i < 2 * T; ++i) segment->as<uint16_t>()[i] = static_cast<uint16_t>(i % 2);
  });
  one.set([&](SegmentIds& ids) {  // of the second head only
    for (const Array* segment : {&ids.q_segment, &ids.k_segment})
      for (int64_t i = 0; i < 2 * T; ++i) segment->as<uint16_t>()[i] = i < T ? kNoSegment : uint16_t{0};
  });
  halves.build({});
  one.build({});
  std::vector<SegmentBalance> balance(2);
  const Segments relations[] = {halves.segments, one.segments};
  add_balance(ctx, balance, relations, 1);
  EXPECT_DOUBLE_EQ(balance[0].pairs, 0.5);
  EXPECT_DOUBLE_EQ(balance[0].largest, 0.5);
  EXPECT_DOUBLE_EQ(balance[1].pairs, 1.5);
  EXPECT_DOUBLE_EQ(balance[1].largest, 1.0);
  EXPECT_DOUBLE_EQ(balance[0].visible, 2 * 30 * 31.0 / (60 * 61));
  EXPECT_DOUBLE_EQ(balance[1].visible, 1 + balance[0].visible);
  EXPECT_EQ(balance[1].sequences, 1);
}

TEST(Segments, PairsAreThoseThatQueriesSee) {
  Context ctx;
  const int64_t B = 3, H = 3, T = 70, S = 4;
  const std::vector<Visibility> by_head{{.heads = 1}, {.attend_self = false, .window = 9, .heads = 2}};
  const auto plan = [&](Arena& arena) { return plan_segments(arena, B, H, T, 4, S, true); };
  Arena measured(Device::kCpu);
  plan(measured), plan(measured);
  Arena arena(Device::kCpu, measured.used());
  const std::vector<Segments> relations{plan(arena), plan(arena)};
  for (const Segments& s : relations) {
    const int64_t length = &s == relations.data() ? 3 : 5;
    for (int64_t i = 0; i < B * H * T; ++i) {
      s.q_segment.as<uint16_t>()[i] = i % 11 == 0 ? kNoSegment : static_cast<uint16_t>(i / length % S);
      s.k_segment.as<uint16_t>()[i] = static_cast<uint16_t>(i / 3 % S);
    }
    build_segments(ctx, s, by_head);
  }
  const std::vector<uint8_t> seen = test::visibility(relations, by_head);
  std::vector<double> want(H);
  for (int64_t i = 0; i < 2 * H * T * T; ++i)
    want[static_cast<size_t>(i / (T * T) % H)] += static_cast<double>(seen[static_cast<size_t>(i)]);
  EXPECT_EQ(count_pairs(ctx, relations, 2), want);  // the third sequence does not count
  EXPECT_TRUE(fails_naming([&] { count_pairs(ctx, relations, 4); }, {"count_pairs", "4 sequences"}));
}

TEST(Segments, WrongIdsAndShapesAreNamed) {
  Context ctx;
  for (const uint16_t id : {uint16_t{4}, uint16_t{5}, uint16_t{4096}, uint16_t{0xFFFE}})
    for (const bool query : {false, true}) {
      const GuardedSegments guarded(ctx, 1, 2, 10, 4);
      guarded.set([&](SegmentIds& ids) {
        ids.q_segment.fill(3);
        ids.k_segment.fill(kNoSegment);
        (query ? ids.q_segment : ids.k_segment).as<uint16_t>()[19] = id;
      });
      EXPECT_TRUE(
          fails_naming([&] { guarded.build({}); }, {"build_segments", concat("segment ", id).c_str(), "there are 4"}));
    }
  const GuardedSegments guarded(ctx, 1, 2, 10, 4), longer(ctx, 1, 2, 11, 4);
  Segments s = guarded.segments;
  s.k_segment = longer.segments.k_segment;
  EXPECT_TRUE(
      fails_naming([&] { build_segments(ctx, s, Visibility()); }, {"build_segments: k_segment ", "u16[1, 2, 10]"}));
  EXPECT_TRUE(fails_naming([&] { build_segments(ctx, Segments(), Visibility()); }, {"build_segments: q_segment "}));
  const std::pair<const char*, Tensor Segments::*> filled[] = {
      {"q_begin", &Segments::q_begin}, {"k_begin", &Segments::k_begin}, {"q_index", &Segments::q_index},
      {"k_index", &Segments::k_index}, {"end_key", &Segments::end_key}, {"begin_query", &Segments::begin_query}};
  for (const auto& [name, member] : filled) {
    s = guarded.segments;
    s.*member = guarded.segments.q_segment;  // of another type
    EXPECT_TRUE(fails_naming([&] { build_segments(ctx, s, Visibility()); }, {"build_segments: ", name}));
  }
}

}  // namespace
}  // namespace scfa::test

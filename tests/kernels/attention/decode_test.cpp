#include "kernels/attention/decode.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/decoding.h"
#include "support/pattern_segments.h"
#include "support/visibility_cases.h"

namespace scfa::test {
namespace {

// A cache in guarded memory of its own.
struct Cache {
  Array keys, values, segments;
  Cache(int64_t H, int64_t S, int64_t D, int64_t relations = 1) : Cache(H, S, D, relations, H) {}
  Cache(int64_t H, int64_t S, int64_t D, int64_t relations, int64_t kv_heads)
      : keys({kv_heads, S, D}), values({kv_heads, S, D}), segments(DType::kU16, {relations, H, S}) {}
  KeyValueCache view() const { return {keys, values, segments}; }
};

Array ids(std::initializer_list<double> segments) {
  Array array(DType::kU16, {1, static_cast<int64_t>(segments.size()), 1});
  array.assign(segments);
  return array;
}

// Token by token, with what came before in the cache, is what the full forward pass gives.
TEST(AttentionDecode, EqualsTheRowsOfForward) {
  Context ctx;
  const int64_t T = 130, H = 4, D = 16;
  for (const SegmentChoice& choice : segment_choices())
    for (const auto& [attend_self, kv_heads] : {std::pair(false, 4), {true, 4}, {false, 1}, {true, 2}}) {
      const AttentionTensors t(ctx, problem_of({1, T, H, D, kv_heads}, AttentionLayout::kQkv, 3, attend_self), 1);
      t.set_segments(chosen(choice, 3, 5));
      t.forward();
      const Cache cache(H, T, D, 1, kv_heads);
      const Array out({1, T, H, D});
      for (int64_t i = 0; i < T; ++i) {
        const auto row = [&](const Tensor& x) {  // (1, 1, H or H_kv, D)
          Tensor view = x;
          view.data = x.offset(i * x.stride[1]);
          view.shape[1] = 1;
          return view;
        };
        Array q_segment(DType::kU16, {1, H, 1}), k_segment(DType::kU16, {1, H, 1});
        for (int64_t h = 0; h < H; ++h) {
          q_segment.as<uint16_t>()[h] = t.layer.relations[0].q_segment.as<uint16_t>()[h * T + i];
          k_segment.as<uint16_t>()[h] = t.layer.relations[0].k_segment.as<uint16_t>()[h * T + i];
        }
        append(ctx, cache.view(), i, row(t.k), row(t.v), k_segment);
        decode(ctx, row(out), row(t.q), cache.view(), q_segment, 0, attend_self ? i + 1 : i, t.scale);
      }
      EXPECT_TRUE(close(out, values(t.out), 1e-6)) << choice.name << ", self " << attend_self << ", H_kv " << kv_heads;
    }
}

// The entry of position i of each relation, (1, H, 1).
struct RelationsAt {
  std::vector<Array> arrays;
  std::vector<Segments> relations;
  RelationsAt(const LayerSegments& layer, int64_t i) {
    for (const Segments& all : layer.relations) {
      const int64_t H = all.q_segment.size(1), T = all.q_segment.size(2);
      Segments one;
      for (const auto ids : {&Segments::q_segment, &Segments::k_segment}) {
        arrays.emplace_back(DType::kU16, std::initializer_list<int64_t>{1, H, 1});
        for (int64_t h = 0; h < H; ++h) arrays.back().as<uint16_t>()[h] = (all.*ids).as<uint16_t>()[h * T + i];
        one.*ids = arrays.back();
      }
      relations.push_back(one);
    }
  }
};

std::vector<HeadRanges> ranges_at(const LayerSegments& layer, int64_t i) {
  std::vector<HeadRanges> ranges(layer.relations.size());
  for (size_t r = 0; r < ranges.size(); ++r)
    for (const Visibility& which : visibility(layer.patterns, static_cast<int64_t>(r))) {
      const int64_t end = std::max<int64_t>(0, i + 1 - which.nearest());
      const int64_t begin = which.window == 0 ? 0 : std::max<int64_t>(0, i + 1 - which.window);
      ranges[r].push_back({std::min(begin, end), end, which.heads});
    }
  return ranges;
}

// With windows, mixtures and several relations, out and lse.
TEST(AttentionDecode, EqualsForwardOverRelationsAndRanges) {
  Context ctx;
  const int64_t T = 130, H = 3, D = 8;
  int cases = 0;
  for (const VisibilityCase& c : visibility_cases({1, T, H, D}, AttentionLayout::kQkv)) {
    if (c.problem.documents) continue;  // a cache is of one document
    ++cases;
    SCOPED_TRACE(c.name);
    const AttentionTensors t(ctx, c.problem, 1);
    prepare(t, c);
    t.forward();
    const auto R = static_cast<int64_t>(t.layer.relations.size());
    const Cache cache(H, T, D, R);
    const Array out({1, T, H, D}), lse({T, 1, H, 1});
    for (int64_t i = 0; i < T; ++i) {
      const auto row = [&](const Tensor& x) {  // (1, 1, H, D)
        Tensor view = x;
        view.data = x.offset(i * x.stride[1]);
        view.shape[1] = 1;
        return view;
      };
      const RelationsAt at(t.layer, i);
      cache_append(ctx, cache.view(), i, row(t.k), row(t.v), at.relations);
      attention_decode(ctx, row(out), lse.view().select(i), row(t.q), cache.view(), at.relations, ranges_at(t.layer, i),
                       t.scale);
    }
    EXPECT_TRUE(close(out, values(t.out), 1e-6));
    EXPECT_TRUE(close(values(lse.view().reshape({T, H}).transpose(0, 1)), values(t.lse), 1e-6));
  }
  EXPECT_GT(cases, 30);
}

TEST(AttentionDecode, AppendWritesOnePosition) {
  Context ctx;
  const Array kv = normal({1, 1, 3, 2, 4}, 1);
  const Cache cache(2, 5, 4);
  append(ctx, cache.view(), 2, part_of(kv, 1), part_of(kv, 2), ids({7, 65535}));
  for (int64_t h = 0; h < 2; ++h)
    for (int64_t s = 0; s < 5; ++s) {
      const auto row = [&](const Array& of) { return values(of.view().select(h).select(s)); };
      if (s == 2) {
        EXPECT_EQ(row(cache.keys), values(part_of(kv, 1).select(0).select(0).select(h)));
        EXPECT_EQ(row(cache.values), values(part_of(kv, 2).select(0).select(0).select(h)));
      } else {
        EXPECT_TRUE(std::isnan(row(cache.keys)[0]) && std::isnan(row(cache.values)[3]));
      }
      EXPECT_EQ(cache.segments.as<uint16_t>()[h * 5 + s], h == 0 && s == 2 ? 7 : 65535);
    }
}

TEST(AttentionDecode, NothingToSeeIsZero) {
  Context ctx;
  const Array q = normal({1, 1, 1, 8}, 1), k = normal({1, 1, 1, 8}, 2);
  const Cache cache(1, 4, 8);
  Array out({1, 1, 1, 8});
  decode(ctx, out, q, cache.view(), ids({0}), 0, 0, 1.0f);  // an empty cache
  EXPECT_EQ(out.values(), std::vector<double>(8, 0.0));
  append(ctx, cache.view(), 0, k, k, ids({1}));
  append(ctx, cache.view(), 1, k, k, ids({65535}));
  for (const double segment : {0.0, 65535.0}) {  // another segment; a dropped query beside a dropped key
    out.poison();
    decode(ctx, out, q, cache.view(), ids({segment}), 0, 2, 1.0f);
    EXPECT_EQ(out.values(), std::vector<double>(8, 0.0));
  }
}

TEST(AttentionDecode, LargeScoresDoNotOverflow) {
  Context ctx;
  Array q({1, 1, 1, 1}), row({1, 1, 1, 1}), value({1, 1, 1, 1}), out({1, 1, 1, 1});
  const Cache cache(1, 4, 1);
  const double keys[] = {-500, 300, 299, -1e30}, rows[] = {5, 1, 2, 7};
  for (int i = 0; i < 4; ++i) {
    row.fill(keys[i]);
    value.fill(rows[i]);
    append(ctx, cache.view(), i, row, value, ids({0}));
  }
  q.fill(1);
  decode(ctx, out, q, cache.view(), ids({0}), 0, 4, 1.0f);
  EXPECT_NEAR(out.as<float>()[0], (1 + 2 * std::exp(-1.0)) / (1 + std::exp(-1.0)), 1e-6);
}

TEST(AttentionDecode, WrongShapesAreNamed) {
  Context ctx;
  const Array q({1, 1, 2, 8}), narrow({1, 1, 2, 7});
  const Cache cache(2, 3, 8), fewer(2, 2, 8);
  const Array segment = ids({0, 0}), one = ids({0});
  const auto decode = [&](ConstTensor query, const KeyValueCache& with, Tensor of, int64_t n) {
    return [=, &ctx, &q] { test::decode(ctx, q, query, with, of, 0, n, 1.0f); };
  };
  const KeyValueCache good = cache.view();
  EXPECT_TRUE(fails_naming(decode(narrow, good, segment, 1), {"attention_decode: q ", "2, 7]"}));
  EXPECT_TRUE(fails_naming(decode({}, good, segment, 1), {"attention_decode: q ", "empty"}));
  EXPECT_TRUE(
      fails_naming(decode(q, {cache.keys, fewer.values, cache.segments}, segment, 1), {"attention_decode: keys"}));
  EXPECT_TRUE(fails_naming(decode(q, good, one, 1), {"attention_decode: q_segment "}));
  EXPECT_TRUE(fails_naming(decode(q, good, segment, 4), {"attention_decode: keys 0 to 4", "3"}));
  EXPECT_TRUE(fails_naming([&] { append(ctx, good, 3, q, q, segment); }, {"cache_append: position 3"}));
  const Cache two(2, 3, 8, 2);
  const Array lse({1, 2, 1});
  EXPECT_TRUE(fails_naming(decode(q, two.view(), segment, 1), {"attention_decode: segments ", "u16[1, 2, 3]"}));
  const std::vector<Segments> relations(2, ids_alone(segment, segment));
  const auto over_both = [&](const Tensor& sums, const HeadRanges& by_head) {
    return [&, sums, by_head] { attention_decode(ctx, q, sums, q, two.view(), relations, {&by_head, 1}, 1.0f); };
  };
  EXPECT_TRUE(fails_naming(over_both({}, {{0, 1}}), {"attention_decode: lse ", "empty"}));
  EXPECT_TRUE(fails_naming(over_both(lse, {{0, 1, 1}}), {"attention_decode", "1 of 2 heads"}));
  EXPECT_TRUE(fails_naming(over_both(lse, {{0, 1, 2}, {0, 1, 1}}), {"attention_decode", "more than 2 heads"}));
  EXPECT_TRUE(fails_naming(over_both(lse, {{2, 1}}), {"attention_decode: keys 2 to 1"}));
  EXPECT_TRUE(fails_naming([&] { append(ctx, good, 0, narrow, q, segment); }, {"cache_append: k "}));
  const Cache grouped(2, 3, 8, 1, 1), uneven(3, 3, 8, 1, 2);
  EXPECT_TRUE(fails_naming([&] { append(ctx, grouped.view(), 0, q, q, segment); }, {"cache_append: k ", "1, 8]"}));
  EXPECT_TRUE(fails_naming(decode(q, uneven.view(), ids({0, 0, 0}), 1), {"2 heads of keys and values", "3"}));
}

}  // namespace
}  // namespace scfa::test

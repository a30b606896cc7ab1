#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention/attention.h"
#include "support/attention_tensors.h"
#include "support/compare.h"

namespace scfa::test {
namespace {

// Rows of x, (T, D) strided, that belong to a segment, up to position `end`, packed.
Array cached_rows(const Tensor& x, const uint16_t* segment, uint16_t wanted, int64_t end) {
  std::vector<double> rows;
  for (int64_t t = 0; t < end; ++t) {
    if (wanted == kNoSegment || segment[t] != wanted) continue;
    const std::vector<double> row = values(x.select(t));
    rows.insert(rows.end(), row.begin(), row.end());
  }
  Array cache({static_cast<int64_t>(rows.size()) / x.size(1), x.size(1)});
  cache.assign(rows);
  return cache;
}

// What a cache of the segment's keys gives for a query is what the full forward pass gives for it.
TEST(AttentionDecode, EqualsTheRowsOfForward) {
  Context ctx;
  const int64_t T = 130, D = 16;
  for (const SegmentChoice& choice : segment_choices())
    for (const bool attend_self : {false, true}) {
      SegmentArrays segments(1, 1, T, 3);
      choice.choose(segments, 3, 5);
      segments.build(ctx, attend_self);
      AttentionTensors t({1, T, 1, D}, Layout::kSeparate, 1);
      t.forward(segments.view());
      const auto head = [](const Tensor& x) {  // (1, T, 1, D) as (T, D)
        Tensor rows = x.select(0);
        rows.ndim = 2;
        rows.shape[1] = rows.shape[2], rows.stride[1] = rows.stride[2];
        return rows;
      };
      std::vector<double> got;
      for (int64_t i = 0; i < T; ++i) {
        const uint16_t segment = segments.q_segment.as<uint16_t>()[i];
        const auto cache = [&](const Tensor& x) {
          return cached_rows(head(x), segments.k_segment.as<uint16_t>(), segment, attend_self ? i + 1 : i);
        };
        const Array keys = cache(t.k), values_of_keys = cache(t.v);
        Array out({D});
        attention_decode(ctx, out, head(t.q).select(i), keys, values_of_keys, t.scale);
        const std::vector<double> row = out.values();
        got.insert(got.end(), row.begin(), row.end());
      }
      EXPECT_TRUE(close(got, values(t.out), 1e-6)) << choice.name << ", self " << attend_self;
    }
}

TEST(AttentionDecode, NothingToSeeIsZero) {
  Context ctx;
  const Array q = normal({8}, 1), none({0, 8});
  Array out({8});
  attention_decode(ctx, out, q, none, none, 1.0f);
  EXPECT_EQ(out.values(), std::vector<double>(8, 0.0));
  out.poison();
  const Tensor unallocated(nullptr, DType::kF32, Device::kCpu, {0, 8});  // a cache that holds nothing yet
  attention_decode(ctx, out, q, unallocated, unallocated, 1.0f);
  EXPECT_EQ(out.values(), std::vector<double>(8, 0.0));
}

TEST(AttentionDecode, LargeScoresDoNotOverflow) {
  Context ctx;
  Array q({1}), keys({4, 1}), rows({4, 1}), out({1});
  q.assign({1});
  keys.assign({-500, 300, 299, -1e30});
  rows.assign({5, 1, 2, 7});
  attention_decode(ctx, out, q, keys, rows, 1.0f);
  EXPECT_NEAR(out.as<float>()[0], (1 + 2 * std::exp(-1.0)) / (1 + std::exp(-1.0)), 1e-6);
}

TEST(AttentionDecode, WrongShapesAreNamed) {
  Context ctx;
  const Array q({8}), keys({3, 8}), fewer({2, 8}), narrow({3, 7});
  const auto decode = [&](Tensor out, ConstTensor query, ConstTensor k, ConstTensor v) {
    return [=, &ctx] { attention_decode(ctx, out, query, k, v, 1.0f); };
  };
  EXPECT_TRUE(fails_naming(decode(q, q, narrow, narrow), {"attention_decode", "keys f32[3, 7]"}));
  EXPECT_TRUE(fails_naming(decode(q, q, keys, fewer), {"attention_decode", "values f32[2, 8]"}));
  EXPECT_TRUE(fails_naming(decode(keys, q, keys, keys), {"attention_decode", "out f32[3, 8]"}));
  EXPECT_TRUE(fails_naming(decode(q, {}, keys, keys), {"attention_decode", "q "}));
  EXPECT_TRUE(fails_naming(decode(q, q, {}, {}), {"attention_decode", "keys "}));
}

}  // namespace
}  // namespace scfa::test

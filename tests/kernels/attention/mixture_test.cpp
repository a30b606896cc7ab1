// Rounds of the hash, and patterns for ranges of heads.
#include <gtest/gtest.h>

#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

TEST(Patterns, RoundsAreRelations) {
  AttentionPattern hash = hash_pattern(16);
  EXPECT_EQ(relation_count(hash), 1);
  EXPECT_EQ(describe(hash), "hash with 16 buckets");
  hash.rounds = 4;
  EXPECT_EQ(relation_count(hash), 4);
  EXPECT_EQ(segment_count(hash, 8192), 16);
  EXPECT_EQ(share_of_pairs(hash, 8192), 4.0 / 16);
  EXPECT_EQ(describe(hash), "hash with 16 buckets in 4 rounds");
  for (const int64_t rounds : {0, 9, -1}) {
    hash.rounds = rounds;
    EXPECT_TRUE(fails_naming([&] { validate(hash); }, {"attention.rounds", "1 to 8", concat("not ", rounds).c_str()}));
  }
}

HeadPatterns mixture_of(std::initializer_list<std::pair<int64_t, AttentionPattern>> entries) {
  HeadPatterns patterns;
  for (const auto& [heads, pattern] : entries) {
    patterns.push_back(pattern);
    patterns.back().heads = heads;
  }
  return patterns;
}

TEST(Patterns, AMixtureNamesEveryHeadOnce) {
  AttentionPattern near, rounds = hash_pattern(8);
  near.window = 256;
  rounds.rounds = 2;
  const HeadPatterns mixture = mixture_of({{4, near}, {0, rounds}, {2, drop_pattern(0.5)}});
  EXPECT_NO_THROW(validate(mixture, 12));
  EXPECT_EQ(for_heads(mixture, 12)[1].heads, 6);
  EXPECT_EQ(segment_count(mixture, 8192), 8);
  EXPECT_EQ(relation_count(mixture), 2);
  EXPECT_EQ(describe(mixture, 12),
            "4 heads dense, window 256 + 6 heads hash with 8 buckets in 2 rounds + 2 heads drop at rate 0.5");
  EXPECT_EQ(describe(mixture_of({{1, near}, {0, {}}})), "1 head dense, window 256 + other heads dense");
  EXPECT_DOUBLE_EQ(share_of_pairs(mixture, 12, 8192), (4 * share_of_pairs(near, 8192) + 6 * 0.25 + 2 * 0.25) / 12);
  EXPECT_EQ(for_heads(HeadPatterns(1), 7)[0].heads, 7);
  EXPECT_TRUE(fails_naming([&] { validate(mixture, 6); }, {"attention.heads", "model.n_head = 6", "not 6"}));
  const HeadPatterns few = mixture_of({{1, {}}, {2, {}}}), two = mixture_of({{0, {}}, {0, {}}}),
                     negative = mixture_of({{-1, {}}});
  EXPECT_TRUE(fails_naming([&] { validate(few, 4); }, {"attention.heads", "model.n_head = 4", "not 3"}));
  EXPECT_TRUE(fails_naming([&] { validate(few, 2); }, {"attention.heads", "model.n_head = 2", "not 3"}));
  EXPECT_TRUE(fails_naming([&] { validate(two, 4); }, {"attention.heads", "one entry", "not 2"}));
  EXPECT_TRUE(fails_naming([&] { validate(negative, 4); }, {"attention.heads", "-1"}));
  EXPECT_TRUE(fails_naming([&] { validate(HeadPatterns(), 4); }, {"attention", "a pattern"}));
}

TEST(Patterns, SayWhatIsSeenByRelation) {
  const auto is = [](const Visibility& v) { return std::vector<int64_t>{v.attend_self, v.window, v.gap, v.heads}; };
  AttentionPattern near, both = hash_pattern(8, 1, 2);
  near.window = 16, near.heads = 2, both.near = 16;
  EXPECT_EQ(is(visibility(near, 0)), std::vector<int64_t>({1, 16, 0, 2}));
  EXPECT_EQ(is(visibility(near, 1)), std::vector<int64_t>({1, 0, 0, 2}));  // beyond its relations
  EXPECT_EQ(is(visibility(both, 1)), std::vector<int64_t>({1, 0, 16, 0}));
  EXPECT_EQ(is(visibility(both, 2)), std::vector<int64_t>({1, 16, 0, 0}));  // what is near
  EXPECT_EQ(is(visibility(both, 3)), std::vector<int64_t>({1, 0, 0, 0}));
}

// Heads with a window do not make a relation that they have no rows in slower.
TEST(Patterns, OnlyRelationsWithAWindowHaveRanges) {
  Context ctx;
  AttentionPattern near, far = hash_pattern(8, 1, 2), both = far;
  near.window = 16, both.near = 16;
  const auto ranges = [&](const HeadPatterns& patterns) {
    const AttentionTensors t(ctx, {.shape = {1, 40, 3, 8}, .patterns = patterns}, 1);
    std::vector<bool> has;
    for (const Segments& relation : t.layer.relations) has.push_back(relation.has_ranges());
    return has;
  };
  EXPECT_EQ(ranges(mixture_of({{2, near}, {1, far}})), std::vector<bool>({true, false}));
  EXPECT_EQ(ranges(mixture_of({{2, near}, {1, both}})), std::vector<bool>({true, false, true}));
  EXPECT_EQ(ranges({far}), std::vector<bool>({false, false}));
}

class Mixture : public testing::TestWithParam<std::tuple<Device, AttentionLayout>> {
 protected:
  void SetUp() override { skip_without(std::get<0>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(Devices, Mixture,
                         testing::Combine(testing::Values(Device::kCpu, Device::kGpu),
                                          testing::Values(AttentionLayout::kQkv, AttentionLayout::kSharedQk)),
                         [](const auto& row) {
                           return concat(name_of(std::get<0>(row.param)),
                                         std::get<1>(row.param) == AttentionLayout::kQkv ? "" : "_shared");
                         });

// A head is in the same segments in a mixture as where its pattern is for all heads; in relations that its pattern does
// not have, in none.
TEST_P(Mixture, AHeadIsAsAlone) {
  const auto [device, layout] = GetParam();
  Context ctx(device);
  const AttentionShape shape{2, 70, 6, 8};
  const AttentionPattern rounds = hash_pattern(4, 3, 2);
  const HeadPatterns mixture =
      mixture_of({{1, hash_pattern(8)}, {2, drop_pattern(0.4)}, {2, rounds}, {1, AttentionPattern()}});
  const auto segments_of = [&](const HeadPatterns& patterns) {
    const AttentionTensors t(ctx, {.shape = shape, .layout = layout, .patterns = patterns}, 1);
    t.draw(ctx, {.seed = 4, .step = 5, .layer = 6});
    t.assign(ctx, {.seed = 4, .step = 5, .layer = 6});
    std::vector<std::vector<double>> ids;  // of queries and keys of each relation, (B, H, T)
    for (const Segments& relation : t.layer.relations)
      for (const Tensor& segment : {relation.q_segment, relation.k_segment}) ids.push_back(t.read(segment));
    return ids;
  };
  const std::vector<std::vector<double>> together = segments_of(mixture);
  ASSERT_EQ(together.size(), 2u * 6);
  int64_t first = 0;
  for (const AttentionPattern& entry : mixture) {
    AttentionPattern everywhere = entry;
    everywhere.heads = 0;
    std::vector<std::vector<double>> alone = segments_of({everywhere});
    alone.resize(together.size(), std::vector<double>(together[0].size(), kNoSegment));
    for (size_t i = 0; i < together.size(); ++i)
      for (int64_t row = 0; row < shape.B * entry.heads * shape.T; ++row) {
        const int64_t b = row / (entry.heads * shape.T), h = first + row / shape.T % entry.heads;
        const auto at = static_cast<size_t>((b * shape.H + h) * shape.T + row % shape.T);
        ASSERT_EQ(together[i][at], alone[i][at]) << describe(entry) << ", list " << i << ", row " << row;
      }
    first += entry.heads;
  }
}

}  // namespace
}  // namespace scfa::test

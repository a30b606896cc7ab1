#include "kernels/attention/patterns/assign.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention/normalise.h"
#include "support/compare.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

TEST(Patterns, TheTable) {
  EXPECT_EQ(pattern_names(), (std::vector<std::string>{"dense", "hash", "drop", "reformer", "blocks"}));
  AttentionPattern dense, hash = hash_pattern(16), drop = drop_pattern(0.25);
  EXPECT_TRUE(attends_self(dense));
  EXPECT_FALSE(attends_self(hash));
  EXPECT_TRUE(attends_self(drop));
  hash.attend_self = true;
  dense.attend_self = false;
  EXPECT_TRUE(attends_self(hash));
  EXPECT_FALSE(attends_self(dense));
  EXPECT_EQ(segment_count(dense, 8192), 1);
  EXPECT_EQ(segment_count(hash, 8192), 16);
  EXPECT_EQ(segment_count(drop, 8192), 1);
  EXPECT_EQ(share_of_pairs(dense, 8192), 1.0);
  EXPECT_EQ(share_of_pairs(hash, 8192), 1.0 / 16);
  EXPECT_EQ(share_of_pairs(drop, 8192), 0.75 * 0.75);
  EXPECT_TRUE(needs_projections(hash));
  EXPECT_FALSE(needs_projections(hash_pattern(1)));
  EXPECT_FALSE(needs_projections(dense));
  EXPECT_FALSE(needs_projections(drop));
}

TEST(Patterns, ValidateNamesTheSettingAndTheRule) {
  for (const int64_t buckets : {1, 2, 6, 16, 64}) EXPECT_NO_THROW(validate(hash_pattern(buckets)));
  for (const int64_t buckets : {0, -2, 3, 15, 66, 128})
    EXPECT_TRUE(fails_naming([&] { validate(hash_pattern(buckets)); },
                             {"attention.buckets", "even", "64", concat("not ", buckets).c_str()}));
  for (const double rate : {0.0, 0.5, 1.0}) EXPECT_NO_THROW(validate(drop_pattern(rate)));
  for (const double rate : {-0.1, 1.5, static_cast<double>(NAN)})
    EXPECT_TRUE(fails_naming([&] { validate(drop_pattern(rate)); }, {"attention.drop_rate", "0 to 1"}));
  AttentionPattern unknown;
  unknown.pattern = "hsah";
  for (const auto& use : {+[](const AttentionPattern& p) { validate(p); },
                          +[](const AttentionPattern& p) { static_cast<void>(attends_self(p)); },
                          +[](const AttentionPattern& p) { static_cast<void>(segment_count(p, 8192)); }})
    EXPECT_TRUE(fails_naming([&] { use(unknown); }, {"attention.pattern", "hsah", "dense", "hash", "drop"}));
}

TEST(Patterns, OneBucketAndNothingDroppedAreDense) {
  const Array q = normal({2, 65, 3, 8}, 1), k = normal({2, 65, 3, 8}, 2);
  for (const ConstTensor& keys : {ConstTensor(), ConstTensor(k)}) {
    const ChosenSegments dense({}, {.q = q, .k = keys});
    for (const double id : dense.q.values()) ASSERT_EQ(id, 0.0);
    for (const AttentionPattern& pattern : {hash_pattern(1), drop_pattern(0.0)}) {
      const ChosenSegments other(pattern, {.q = q, .k = keys});
      EXPECT_TRUE(other.q.same_bits(dense.q));
      EXPECT_TRUE(other.k.same_bits(dense.k));
    }
  }
}

TEST(Patterns, NormalisingKeysInTheSamePassEqualsBothOps) {
  Context ctx;
  const Array qv = normal({2, 65, 2, 3, 8}, 1);
  const ConstTensor q = part_of(qv, 0);
  for (const AttentionPattern& pattern : {AttentionPattern(), hash_pattern(1), hash_pattern(8), drop_pattern(0.5)}) {
    SCOPED_TRACE(describe(pattern));
    const ChosenSegments want(pattern, {.q = q});
    const Array want_keys({2, 65, 3, 8}), want_norm({2, 65, 3}), keys({2, 65, 3, 8}), norm({2, 65, 3});
    normalise_keys(ctx, want_keys, want_norm, q);
    const Array q_segment(DType::kU16, {2, 3, 65}), k_segment(DType::kU16, {2, 3, 65});
    const std::vector<int32_t> samples = {0, 1};
    const Draw draw;
    const Segments relation = ids_alone(q_segment, k_segment);
    assign_segments_and_normalise_keys(ctx, {&relation, 1}, keys, norm, pattern,
                                       {.q = q,
                                        .k = {},
                                        .projections = want.projections,
                                        .samples = ConstTensor(samples.data(), DType::kI32, Device::kCpu, {2}),
                                        .seed = draw.seed,
                                        .step = draw.step,
                                        .layer = draw.layer});
    EXPECT_TRUE(q_segment.same_bits(want.q) && k_segment.same_bits(want.k));
    EXPECT_TRUE(keys.same_bits(want_keys) && norm.same_bits(want_norm));
  }
}

TEST(Patterns, WrongShapesAreNamed) {
  Context ctx;
  const Array q({1, 8, 2, 4}), k({1, 9, 2, 4}), projections({1, 2, 8, 4}), fewer({1, 2, 7, 4});
  const Array ids(DType::kU16, {1, 2, 8}), longer(DType::kU16, {1, 2, 9});
  const int32_t zero = 0;
  const ConstTensor sample(&zero, DType::kI32, Device::kCpu, {1});
  const auto assign = [&](Tensor qs, Tensor ks, ConstTensor queries, ConstTensor keys, ConstTensor r) {
    return [=, &ctx, &sample] {
      const Segments relation = ids_alone(qs, ks);
      assign_segments(ctx, {&relation, 1}, hash_pattern(16),
                      {.q = queries, .k = keys, .projections = r, .samples = sample, .seed = 0, .step = 0, .layer = 0});
    };
  };
  EXPECT_TRUE(fails_naming(assign(ids, ids, {}, {}, projections), {"assign_segments: q "}));
  EXPECT_TRUE(fails_naming(assign(ids, ids, q, k, projections), {"assign_segments: k "}));
  EXPECT_TRUE(fails_naming(assign(longer, ids, q, {}, projections), {"assign_segments: q_segment "}));
  EXPECT_TRUE(fails_naming(assign(ids, longer, q, {}, projections), {"assign_segments: k_segment "}));
  EXPECT_TRUE(fails_naming(assign(ids, ids, q, {}, fewer), {"assign_segments: projections "}));
  EXPECT_TRUE(fails_naming(assign(ids, ids, q, {}, {}), {"assign_segments: projections ", "empty"}));
  AttentionPattern rounds = hash_pattern(16);
  rounds.rounds = 2;
  const Segments one = ids_alone(ids, ids);
  PatternInput input{.q = q, .k = {}, .projections = projections, .samples = sample, .seed = 0, .step = 0, .layer = 0};
  EXPECT_TRUE(fails_naming(
      [&] {
        assign_segments(ctx, {&one, 1}, rounds, input);
      },
      {"assign_segments", "2 rounds", "2 relations, not 1"}));
  input.first_head = 1, input.heads = 2;
  EXPECT_TRUE(fails_naming(
      [&] {
        assign_segments(ctx, {&one, 1}, {}, input);
      },
      {"assign_segments: heads 1 to 3 of 2"}));
  const Array norm({1, 8, 2}), short_norm({1, 7, 2});
  const auto normalise = [&](const ConstTensor& k_of_input, const Tensor& keys, const Tensor& inverse_norm) {
    return [&ctx, &sample, &ids, &q, &projections, k_of_input, keys, inverse_norm] {
      const Segments relation = ids_alone(ids, ids);
      assign_segments_and_normalise_keys(
          ctx, {&relation, 1}, keys, inverse_norm, hash_pattern(16),
          {.q = q, .k = k_of_input, .projections = projections, .samples = sample, .seed = 0, .step = 0, .layer = 0});
    };
  };
  EXPECT_TRUE(fails_naming(normalise({}, k, norm), {"assign_segments_and_normalise_keys: keys ", "9, 2, 4]"}));
  EXPECT_TRUE(fails_naming(normalise({}, {}, norm), {"assign_segments_and_normalise_keys: keys ", "empty"}));
  EXPECT_TRUE(fails_naming(normalise({}, q, short_norm), {"assign_segments_and_normalise_keys: inverse_norm "}));
  EXPECT_TRUE(fails_naming(normalise({}, q, {}), {"assign_segments_and_normalise_keys: inverse_norm "}));
  EXPECT_TRUE(fails_naming(normalise(q, q, norm), {"assign_segments_and_normalise_keys: k must be empty"}));
  EXPECT_TRUE(fails_naming([&] { draw_projections(ctx, {}, 0, 0, 0); }, {"draw_projections: projections "}));
}

}  // namespace
}  // namespace scfa::test

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/compare.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

Array projections_of(uint64_t seed, uint32_t step, uint32_t layer, int64_t H = 3, int64_t half = 8, int64_t D = 16) {
  Context ctx;
  Array projections({1, H, half, D});
  draw_projections(ctx, projections, seed, step, layer);
  return projections;
}

TEST(HashPattern, DirectionsHaveLengthOneAndAllDiffer) {
  const int64_t H = 3, half = 8;
  for (const int64_t D : {1, 7, 16, 64}) {  // odd D: pairs of normals straddle directions
    const Array r = projections_of(1, 2, 3, H, half, D);
    for (int64_t a = 0; a < H * half; ++a) {
      const std::vector<double> x = values(r.view().reshape({H * half, D}).select(a));
      ASSERT_NEAR(dot(x, x), 1.0, 1e-6);
      for (int64_t b = 0; b < a && D > 1; ++b)
        ASSERT_LT(std::abs(dot(x, values(r.view().reshape({H * half, D}).select(b)))), 1.0 - 1e-6) << a << " " << b;
    }
  }
}

TEST(HashPattern, DirectionsAreIsotropic) {
  const int64_t H = 50, half = 32, D = 16, n = H * half;
  const std::vector<double> r = projections_of(5, 0, 0, H, half, D).values();
  for (int64_t d = 0; d < D; ++d)
    for (int64_t e = 0; e <= d; ++e) {
      double moment = 0.0;
      for (int64_t i = 0; i < n; ++i)
        moment += r[static_cast<size_t>(i * D + d)] * r[static_cast<size_t>(i * D + e)] / static_cast<double>(n);
      // Mean 1/D on the diagonal and 0 off it, each with a deviation of about sqrt(2) / D / sqrt(n).
      EXPECT_NEAR(moment, d == e ? 1.0 / static_cast<double>(D) : 0.0, 5 * 1.42 / 16 / 40) << d << " " << e;
    }
}

TEST(HashPattern, DirectionsDependOnSeedStepAndLayerOnly) {
  const Array r = projections_of(1, 2, 3);
  EXPECT_TRUE(r.same_bits(projections_of(1, 2, 3)));
  for (const Array& other : {projections_of(2, 2, 3), projections_of(1, 3, 3), projections_of(1, 2, 4),
                             projections_of(uint64_t{1} << 32 | 1, 2, 3), projections_of(1, 3, 2)})
    EXPECT_FALSE(close(r, other.values(), 0.5));
  // A head's directions do not depend on how many heads there are.
  const Array more = projections_of(1, 2, 3, 5);
  EXPECT_EQ(values(more.view().select(0).slice(0, 3)), r.values());
}

// A head's directions are the same alone and among others; each round has other ones, the first those of one round.
TEST(HashPattern, DirectionsOfARoundAndOfARangeOfHeads) {
  Context ctx;
  const Array one = projections_of(1, 2, 3, 5), rounds({3, 5, 8, 16}), range({3, 2, 8, 16});
  draw_projections(ctx, rounds, 1, 2, 3);
  draw_projections(ctx, range, 1, 2, 3, 2);
  EXPECT_EQ(values(rounds.view().select(0)), one.values());
  for (int64_t round = 0; round < 3; ++round) {
    EXPECT_EQ(values(range.view().select(round)), values(rounds.view().select(round).slice(2, 2)));
    for (int64_t other = 0; other < round; ++other)
      EXPECT_NE(values(rounds.view().select(round)), values(rounds.view().select(other)));
  }
}

// bucket = argmax over [x R, -x R]. Rows whose two best are closer than f32 can tell apart may go either way.
TEST(HashPattern, BucketIsTheArgmax) {
  for (const int64_t buckets : {2, 6, 16, 64})
    for (const int64_t D : {1, 16, 64}) {
      const int64_t B = 2, T = 129, H = 3, half = buckets / 2;
      const Array qkv = normal({B, T, 3, H, D}, 7);
      const ChosenSegments chosen(hash_pattern(buckets), {.q = part_of(qkv, 0), .k = part_of(qkv, 1)});
      const std::vector<double> r = chosen.projections.values();
      int64_t unclear = 0;
      for (int part = 0; part < 2; ++part) {
        const std::vector<double> x = values(part_of(qkv, part));
        const uint16_t* ids = (part == 0 ? chosen.q : chosen.k).as<uint16_t>();
        for (int64_t row = 0; row < B * T * H; ++row) {
          const int64_t b = row / (T * H), t = row / H % T, h = row % H;
          std::vector<double> score(static_cast<size_t>(buckets));
          for (int64_t c = 0; c < half; ++c) {
            double y = 0.0;
            for (int64_t d = 0; d < D; ++d)
              y += x[static_cast<size_t>(row * D + d)] * r[static_cast<size_t>((h * half + c) * D + d)];
            score[static_cast<size_t>(c)] = y;
            score[static_cast<size_t>(c + half)] = -y;
          }
          const int64_t id = ids[(b * H + h) * T + t];
          ASSERT_LT(id, buckets);
          const auto best = std::max_element(score.begin(), score.end());
          const bool wins = id == best - score.begin();
          unclear += !wins;
          ASSERT_NEAR(score[static_cast<size_t>(id)], *best, 1e-5);
        }
      }
      // In one dimension every direction is 1 or -1 and all tie; the rule for ties has its own test.
      EXPECT_LE(unclear, D > 1 ? 2 : 2 * B * T * H) << buckets << " " << D;
    }
}

TEST(HashPattern, TiesGoToTheLowestBucket) {
  Context ctx;
  Array q({1, 4, 1, 2}), r({1, 1, 3, 2}), ids(DType::kU16, {1, 1, 4}), k_ids(DType::kU16, {1, 1, 4});
  q.assign({0, 0, 1, 0, -1, 0, 0, -1});
  r.assign({0, 1, 1, 0, 1, 0});  // the second and third direction are the same
  const int32_t zero = 0;
  const ConstTensor sample(&zero, DType::kI32, Device::kCpu, {1});
  const Segments relation = ids_alone(ids, k_ids);
  assign_segments(ctx, {&relation, 1}, hash_pattern(6),
                  {.q = q, .k = {}, .projections = r, .samples = sample, .seed = 0, .step = 0, .layer = 0});
  EXPECT_EQ(ids.values(), (std::vector<double>{0, 1, 4, 3}));
}

TEST(HashPattern, KeysThatAreQueriesShareTheirBucket) {
  const Array q = normal({2, 100, 3, 16}, 1), k = normal({2, 100, 3, 16}, 2);
  const ChosenSegments shared(hash_pattern(16), {.q = q}), apart(hash_pattern(16), {.q = q, .k = k});
  EXPECT_TRUE(shared.k.same_bits(shared.q));
  EXPECT_TRUE(apart.q.same_bits(shared.q));
  EXPECT_FALSE(apart.k.same_bits(apart.q));
}

// Scaling a row by a positive number leaves its bucket; turning it around moves it to the opposite one.
TEST(HashPattern, OnlyTheDirectionCounts) {
  const Array q = normal({1, 200, 2, 16}, 1);
  Array scaled({1, 200, 2, 16}), opposite({1, 200, 2, 16});
  for (int64_t i = 0; i < q.view().numel(); ++i) {
    scaled.as<float>()[i] = 4.0f * q.as<float>()[i];  // a power of two is exact
    opposite.as<float>()[i] = -q.as<float>()[i];
  }
  const ChosenSegments a(hash_pattern(16), {.q = q}), b(hash_pattern(16), {.q = scaled}),
      c(hash_pattern(16), {.q = opposite});
  EXPECT_TRUE(a.q.same_bits(b.q));
  for (int64_t i = 0; i < a.q.view().numel(); ++i) ASSERT_EQ(c.q.as<uint16_t>()[i], (a.q.as<uint16_t>()[i] + 8) % 16);
}

TEST(HashPattern, HeadsMayLieAnywhere) {
  const Array heads = normal({2, 3, 50, 16}, 1);
  Array packed({2, 50, 3, 16});
  packed.assign(values(by_position(heads)));
  const ChosenSegments a(hash_pattern(8), {.q = packed}), b(hash_pattern(8), {.q = by_position(heads)});
  EXPECT_TRUE(a.q.same_bits(b.q));
}

TEST(HashPattern, RandomRowsSpreadOverAllBuckets) {
  const Array q = normal({1, 8000, 1, 64}, 1);
  const ChosenSegments chosen(hash_pattern(16), {.q = q});
  std::vector<int> count(16);
  for (const double id : chosen.q.values()) ++count[static_cast<size_t>(id)];
  for (const int rows : count) EXPECT_NEAR(rows, 500, 200);  // directions are random, so buckets are only about equal
}

TEST(HashPattern, ChoiceOfOneSampleDoesNotDependOnTheBatch) {
  const Array q = normal({4, 65, 2, 16}, 1);
  const ChosenSegments all(hash_pattern(8), {.q = q});
  for (int64_t b = 0; b < 4; ++b) {
    const ChosenSegments one(hash_pattern(8), {.q = q.view().slice(b, 1), .samples = {77}});
    EXPECT_EQ(one.q.values(), values(all.q.view().slice(b, 1)));
  }
}

}  // namespace
}  // namespace scfa::test

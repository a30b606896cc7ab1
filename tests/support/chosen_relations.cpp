#include "support/chosen_relations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scfa::test {

AttentionPattern reformer_pattern(int64_t buckets, int64_t rounds, int64_t chunk) {
  AttentionPattern pattern;
  pattern.pattern = "reformer", pattern.buckets = buckets, pattern.rounds = rounds, pattern.chunk = chunk;
  return pattern;
}

AttentionPattern blocks_pattern(int64_t block, int64_t top_k) {
  AttentionPattern pattern;
  pattern.pattern = "blocks", pattern.block = block, pattern.top_k = top_k;
  return pattern;
}

void choose(Context& ctx, const AttentionTensors& t, const PatternDraw& draw) {
  t.draw(ctx, draw);
  t.assign(ctx, draw);
  t.build(ctx);
}

namespace {

constexpr double kNone = kNoSegment;

int64_t heads_of(const AttentionTensors& t, const AttentionPattern& pattern) {
  return pattern.heads > 0 ? pattern.heads : t.shape().H;
}

double dot(const double* a, const double* b, int64_t D) {
  return std::inner_product(a, a + D, b, 0.0);
}

}  // namespace

// Buckets in double; where two directions are nearly as good, the bucket is left open and so is the whole head's order,
// so inputs must be such that there are none.
void expect_chunks(const AttentionTensors& t, int64_t first_head, const AttentionPattern& pattern, size_t entry) {
  const auto [B, T, H, D, given] = t.shape();
  const std::vector<double> q = t.read(t.q), directions = t.read(t.layer.projections.at(entry));
  const int64_t heads = heads_of(t, pattern), half = pattern.buckets / 2;
  const int64_t length = pattern.chunk > 0 ? pattern.chunk : (T + pattern.buckets - 1) / pattern.buckets;
  int64_t compared = 0;
  for (int64_t round = 0; round < pattern.rounds; ++round) {
    const Segments &own = t.layer.relations[static_cast<size_t>(2 * round)],
                   &previous = t.layer.relations[static_cast<size_t>(2 * round + 1)];
    const std::vector<double> ids[] = {t.read(own.q_segment), t.read(own.k_segment), t.read(previous.q_segment),
                                       t.read(previous.k_segment)};
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < heads; ++i) {
        const int64_t h = first_head + i;
        std::vector<int64_t> bucket(static_cast<size_t>(T)), order(bucket.size());
        double margin = 1;
        for (int64_t t0 = 0; t0 < T; ++t0) {
          std::vector<double> score;
          for (int64_t c = 0; c < half; ++c)
            score.push_back(dot(q.data() + ((b * T + t0) * H + h) * D,
                                directions.data() + ((round * heads + i) * half + c) * D, D));
          for (int64_t c = 0; c < half; ++c) score.push_back(-score[static_cast<size_t>(c)]);
          const auto best = std::max_element(score.begin(), score.end());
          for (auto other = score.begin(); other != score.end(); ++other)
            if (other != best) margin = std::min(margin, *best - *other);
          bucket[static_cast<size_t>(t0)] = best - score.begin();
        }
        if (margin < 1e-5) continue;
        ++compared;
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) {
          return bucket[static_cast<size_t>(x)] < bucket[static_cast<size_t>(y)];
        });
        const int64_t chunks = (T + length - 1) / length;
        for (int64_t place = 0; place < T; ++place) {
          const auto chunk = static_cast<double>(place / length);
          const auto at = static_cast<size_t>((b * H + h) * T + order[static_cast<size_t>(place)]);
          ASSERT_EQ(ids[0][at], chunk) << "round " << round << ", place " << place;
          ASSERT_EQ(ids[1][at], chunk);
          ASSERT_EQ(ids[2][at], chunk > 0 ? chunk : kNone);
          ASSERT_EQ(ids[3][at], place / length + 1 < chunks ? chunk + 1 : kNone);
        }
      }
  }
  EXPECT_GT(compared, 0);
}

// The blocks chosen have the highest products in double, up to rounding.
void expect_best_blocks(const AttentionTensors& t, int64_t first_head, const AttentionPattern& pattern) {
  const auto [B, T, H, D, given] = t.shape();
  const std::vector<double> q = t.read(t.q), k = t.read(t.k);
  const int64_t H_kv = t.shape().kv_heads();
  std::vector<std::vector<double>> q_ids, k_ids;
  for (const Segments& relation : t.layer.relations)
    q_ids.push_back(t.read(relation.q_segment)), k_ids.push_back(t.read(relation.k_segment));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = first_head; h < first_head + heads_of(t, pattern); ++h)
      for (int64_t position = 0; position < T; ++position) {
        const int64_t own = position / pattern.block;
        std::vector<double> product;
        for (int64_t block = 0; block < own; ++block) {
          double sum = 0;
          for (int64_t j = block * pattern.block; j < (block + 1) * pattern.block; ++j)
            sum += dot(q.data() + ((b * T + position) * H + h) * D,
                       k.data() + ((b * T + j) * H_kv + h / (H / H_kv)) * D, D);
          product.push_back(sum);
        }
        std::vector<double> sorted = product;
        std::sort(sorted.rbegin(), sorted.rend());
        const auto at = static_cast<size_t>((b * H + h) * T + position);
        std::vector<double> seen;
        for (size_t r = 0; r < static_cast<size_t>(pattern.top_k); ++r) {
          ASSERT_EQ(k_ids[r][at], own);
          const double id = q_ids[r][at];
          if (r == 0) {
            ASSERT_EQ(id, own);
          } else if (r > sorted.size()) {
            ASSERT_EQ(id, kNone) << "position " << position;
          } else {
            ASSERT_LT(id, own) << "position " << position;
            ASSERT_NEAR(product[static_cast<size_t>(id)], sorted[r - 1], 1e-3) << "position " << position;
          }
          if (id != kNone) seen.push_back(id);
        }
        std::sort(seen.begin(), seen.end());
        ASSERT_TRUE(std::adjacent_find(seen.begin(), seen.end()) == seen.end()) << "a block twice";
      }
}

}  // namespace scfa::test

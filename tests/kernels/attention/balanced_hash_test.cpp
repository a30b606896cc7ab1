// Buckets of standardised scores, on both devices.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/attention/patterns/hash_balance.h"
#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

AttentionPattern balanced(const char* balance, int64_t buckets, int64_t rounds = 1) {
  AttentionPattern pattern = hash_pattern(buckets, rounds);
  pattern.balance = balance;
  return pattern;
}

class BalancedHash : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    skip_without(GetParam());
    if (!IsSkipped() && !HasFatalFailure()) ctx = std::make_unique<Context>(GetParam());
  }
  void assign(const AttentionTensors& t) const {
    const PatternDraw draw{.seed = 4, .step = 5, .layer = 6};
    t.draw(*ctx, draw);
    t.assign(*ctx, draw);
  }
  // Adds a direction of its own to all rows of each head: what most of them have in common.
  static void add_common(const AttentionTensors& t, double length) {
    const Tensor input = t.inputs[0];
    std::vector<double> rows = t.read(input);
    const int64_t H = input.size(2), D = input.size(3);
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto d = static_cast<int64_t>(i) % D, h = static_cast<int64_t>(i) / D % H;
      rows[i] += length * std::cos(static_cast<double>(7 * h + 3 * d)) * std::sqrt(2.0 / static_cast<double>(D));
    }
    t.write(input, rows);
  }
  std::unique_ptr<Context> ctx;
};

// What hash_balance.h says, in double precision: no bucket has a larger score than the one chosen, but for those of the
// probes before.
TEST_P(BalancedHash, ChoosesTheLargestStandardisedScore) {
  for (const char* balance : {"mean", "prefix"})
    for (const AttentionLayout layout : {kQkv, kSharedQk})
      for (const auto& [T, D, buckets] : {std::tuple<int64_t, int64_t, int64_t>{1, 16, 4},
                                          {20, 8, 2},
                                          {127, 64, 16},
                                          {300, 24, 6},
                                          {1000, 128, 64}}) {
        SCOPED_TRACE(
            concat(balance, ", T ", T, ", D ", D, ", ", buckets, " buckets, layout ", static_cast<int>(layout)));
        AttentionPattern pattern = balanced(balance, buckets, 2);
        const int64_t half = buckets / 2, probes = pattern.probes = std::min<int64_t>(half, 3);
        const AttentionTensors t(*ctx, {.shape = {2, T, 3, D}, .layout = layout, .patterns = {pattern}}, 1);
        add_common(t, 2.0);
        assign(t);
        const std::vector<double> directions = t.read(t.layer.projections[0]);
        for (const bool of_keys : {false, true}) {
          const std::vector<double> rows = t.read(of_keys && layout == kQkv ? t.k : t.q);
          for (int64_t round = 0; round < 2; ++round) {
            std::vector<std::vector<double>> ids;  // of each probe
            for (int64_t probe = 0; probe < probes; ++probe) {
              const Segments& relation = t.layer.relations[static_cast<size_t>(round * probes + probe)];
              ids.push_back(t.read(of_keys ? relation.k_segment : relation.q_segment));
            }
            for (int64_t list = 0; list < 2 * 3; ++list) {
              const int64_t b = list / 3, h = list % 3;
              std::vector<double> y(static_cast<size_t>(T * half));
              for (int64_t i = 0; i < T; ++i) {
                const double* row = rows.data() + ((b * T + i) * 3 + h) * D;
                double square = 0;
                for (int64_t d = 0; d < D; ++d) square += row[d] * row[d];
                for (int64_t c = 0; c < half; ++c)
                  for (int64_t d = 0; d < D; ++d)
                    y[static_cast<size_t>(i * half + c)] +=
                        row[d] / std::sqrt(square) *
                        directions[static_cast<size_t>(((round * 3 + h) * half + c) * D + d)];
              }
              for (int64_t i = 0; i < T; ++i) {
                std::vector<double> score(static_cast<size_t>(buckets));
                const int64_t before = i < 32 ? 0 : i < 64 ? 32 : i < 128 ? 64 : i / 128 * 128;
                for (int64_t c = 0; c < half; ++c) {
                  double sum = 0, square = 16.0 / static_cast<double>(D);
                  for (int64_t j = 0; j < before; ++j) {
                    const double x = y[static_cast<size_t>(j * half + c)];
                    sum += x, square += x * x;
                  }
                  const double n = static_cast<double>(before) + 16, mean = sum / n;
                  const double deviation = std::string(balance) == "mean" ? 0.1 : std::sqrt(square / n - mean * mean);
                  const double z = (y[static_cast<size_t>(i * half + c)] - mean) / deviation;
                  score[static_cast<size_t>(c)] = z, score[static_cast<size_t>(c + half)] = -z;
                }
                for (int64_t probe = 0; probe < probes; ++probe) {
                  const double id = ids[static_cast<size_t>(probe)][static_cast<size_t>((b * 3 + h) * T + i)];
                  ASSERT_LT(id, static_cast<double>(buckets));
                  double& its_score = score[static_cast<size_t>(id)];
                  ASSERT_NEAR(its_score, *std::max_element(score.begin(), score.end()), 2e-3)
                      << "position " << i << ", probe " << probe;
                  if (!of_keys) its_score = -INFINITY;
                }
              }
            }
          }
        }
      }
}

// Queries that have a large mean in common fall into two or three buckets, balanced ones into nearly all.
TEST_P(BalancedHash, BucketsBecomeOfAboutOneSize) {
  const auto effective = [&](const char* balance) {
    const AttentionTensors t(*ctx,
                             {.shape = {1, 4096, 4, 64}, .layout = kSharedQk, .patterns = {balanced(balance, 16)}}, 1);
    add_common(t, 16.0);  // twice as long as the rest of a row
    assign(t);
    t.build(*ctx);
    std::vector<SegmentBalance> of_head(4);
    add_balance(*ctx, of_head, t.layer.relations, 1);
    double sum = 0;
    for (const SegmentBalance& head : of_head) sum += head.effective_segments() / 4;
    return sum;
  };
  EXPECT_LT(effective("none"), 4);
  EXPECT_GT(effective("mean"), 10);
  EXPECT_GT(effective("prefix"), 14);
}

// One row after the other, as in generation, gives the buckets of all rows at once; so do parts of any length.
TEST_P(BalancedHash, GoesOnFromItsState) {
  for (const AttentionLayout layout : {kQkv, kSharedQk})
    for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{1}, {31, 1}, {300}, {100, 7, 200}}) {
      const int64_t T = 450;
      const AttentionTensors whole(
          *ctx,
          {.shape = {2, T, 3, 64}, .layout = layout, .patterns = {balanced("prefix", 16, layout == kQkv ? 2 : 1)}}, 1);
      add_common(whole, 4.0);
      assign(whole);
      int64_t part = 0, mismatches = 0;
      AttentionTensors parts(*ctx, {.shape = {2, 300, 3, 64}, .layout = layout, .patterns = whole.problem.patterns}, 1);
      for (int64_t first = 0, count = 0; first < T; first += count, ++part) {
        count = std::min(lengths[static_cast<size_t>(part) % lengths.size()], T - first);
        AttentionTensors now(*ctx, {.shape = {2, count, 3, 64}, .layout = layout, .patterns = whole.problem.patterns},
                             1);
        LayerSegments layer = now.layer;
        layer.states = parts.layer.states;
        layer.projections = whole.layer.projections;
        const auto rows_of = [&](const ConstTensor& x) {
          ConstTensor rows = x;
          rows.data = static_cast<const char*>(x.data) + first * x.stride[1] * (ctx->on_gpu() ? 2 : 4);
          rows.shape[1] = count;
          return rows;
        };
        PatternInput input{.q = rows_of(whole.q),
                           .k = layout == kQkv ? rows_of(whole.k) : ConstTensor(),
                           .projections = {},
                           .samples = now.samples,
                           .seed = 4,
                           .step = 5,
                           .layer = 6,
                           .first_position = first,
                           .scratch = now.scratch};
        if (layout == kSharedQk)
          layer.assign_and_normalise_keys(*ctx, now.k, now.inverse_norm, input);
        else
          layer.assign(*ctx, input);
        if (layout == kSharedQk) {
          const std::vector<double> got = now.read(now.k), want = whole.read(whole.k);
          for (size_t i = 0; i < got.size(); ++i) {
            const auto at = static_cast<int64_t>(i);
            const int64_t b = at / (count * 3 * 64), rest = at % (count * 3 * 64);
            ASSERT_EQ(got[i], want[static_cast<size_t>((b * T + first) * 3 * 64 + rest)]);
          }
        }
        for (size_t r = 0; r < layer.relations.size(); ++r)
          for (const bool of_keys : {false, true}) {
            const auto ids = [&](const AttentionTensors& t, const Segments& s) {
              return t.read(of_keys ? s.k_segment : s.q_segment);
            };
            const std::vector<double> got = ids(now, layer.relations[r]), want = ids(whole, whole.layer.relations[r]);
            for (int64_t list = 0; list < 6; ++list)
              for (int64_t i = 0; i < count; ++i)
                mismatches +=
                    got[static_cast<size_t>(list * count + i)] != want[static_cast<size_t>(list * T + first + i)];
          }
      }
      EXPECT_EQ(mismatches, 0) << "parts of " << lengths[0] << ", layout " << static_cast<int>(layout);
    }
}

// Rows of zeros, and what is not a number, are in some bucket.
TEST_P(BalancedHash, AnyRowHasABucket) {
  const AttentionTensors t(*ctx, {.shape = {1, 200, 1, 8}, .layout = kQkv, .patterns = {balanced("prefix", 8)}}, 1);
  std::vector<double> rows(200 * 3 * 8, 0.0);  // q, k, v
  for (size_t i = 0; i < 8; ++i) rows[50 * 24 + i] = NAN, rows[60 * 24 + i] = INFINITY, rows[70 * 24 + i] = 1e30;
  t.write(t.inputs[0], rows);
  assign(t);
  for (const double id : t.read(t.layer.relations[0].q_segment)) EXPECT_LT(id, 8);
}

INSTANTIATE_TEST_SUITE_P(Devices, BalancedHash, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

TEST(HashBalance, StatisticsAreOfEarlierChunks) {
  const auto rows = [](int64_t position) { return statistics_rows(position); };
  for (const int64_t position : {0, 1, 31}) EXPECT_EQ(rows(position), 0);
  for (const int64_t position : {32, 63}) EXPECT_EQ(rows(position), 32);
  for (const int64_t position : {64, 127}) EXPECT_EQ(rows(position), 64);
  for (const int64_t position : {128, 255}) EXPECT_EQ(rows(position), 128);
  EXPECT_EQ(rows(1000000), 1000000 / 128 * 128);
  EXPECT_EQ(fixed_point(1.5f), 32767);
  EXPECT_EQ(fixed_point(-1.0f), -32767);
  EXPECT_EQ(fixed_point(NAN), 0);
}

}  // namespace
}  // namespace scfa::test

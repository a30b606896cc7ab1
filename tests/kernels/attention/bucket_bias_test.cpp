// Biases of buckets, on both devices: what they choose, how they learn, and what they are of.
#include "kernels/attention/patterns/bucket_bias.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "support/attention_tensors.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

AttentionPattern biased(const char* balance, int64_t buckets, int64_t rounds = 1) {
  AttentionPattern pattern = hash_pattern(buckets, rounds);
  pattern.balance = balance, pattern.bias_rate = 0.1;
  return pattern;
}

// One layer of a pattern with biases, all zero, and loads.
struct BiasedLayer : AttentionTensors {
  BiasedLayer(Context& ctx, const AttentionShape& shape, AttentionLayout layout, const HeadPatterns& patterns)
      : AttentionTensors(ctx, {.shape = shape, .layout = layout, .patterns = patterns}, 1) {
    for (size_t i = 0; i < layer.patterns.size(); ++i) {
      const AttentionPattern& p = layer.patterns[i];
      if (!learns_bucket_bias(p)) continue;
      const int64_t sides = layout == kSharedQk ? 1 : 2;
      layer.bucket_biases[i] = arena().take("biases", DType::kF32, {sides, p.rounds, p.heads, p.buckets});
      layer.bucket_loads[i] = arena().take("loads", DType::kF64, {sides, p.rounds, p.heads, p.buckets});
      write(layer.bucket_biases[i], std::vector<double>(static_cast<size_t>(layer.bucket_biases[i].numel())));
      write(layer.bucket_loads[i], std::vector<double>(static_cast<size_t>(layer.bucket_loads[i].numel())));
    }
  }
};

class BucketBias : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    skip_without(GetParam());
    if (!IsSkipped() && !HasFatalFailure()) ctx = std::make_unique<Context>(GetParam());
  }
  void assign(const BiasedLayer& t, uint32_t step = 5) const {
    const PatternDraw draw{.seed = 4, .step = step, .layer = 6};
    t.draw(*ctx, draw);
    t.assign(*ctx, draw);
  }
  // All rows of a head get most of their length from one direction.
  static void add_common(const BiasedLayer& t) {
    const Tensor input = t.inputs[0];
    std::vector<double> rows = t.read(input);
    for (size_t i = 0; i < rows.size(); ++i)
      rows[i] += 3 * std::cos(static_cast<double>(i % static_cast<size_t>(input.size(2) * input.size(3))));
    t.write(input, rows);
  }
  double balance(const BiasedLayer& t) const {
    std::vector<SegmentBalance> of_head(static_cast<size_t>(t.shape().H));
    add_balance(*ctx, of_head, t.layer.relations, t.shape().B);
    double sum = 0;
    for (const SegmentBalance& head : of_head) sum += head.effective_segments();
    return sum / static_cast<double>(of_head.size());
  }
  std::unique_ptr<Context> ctx;
};

// Without standardised scores: the largest +-x . direction sqrt(D) / |x| + bias, in double precision, and for queries
// the next largest in the next probe.
TEST_P(BucketBias, IsAddedToTheScores) {
  for (const AttentionLayout layout : {kQkv, kSharedQk})
    for (const auto& [T, D, buckets] :
         {std::tuple<int64_t, int64_t, int64_t>{1, 16, 4}, {130, 64, 16}, {300, 24, 6}, {200, 128, 64}}) {
      SCOPED_TRACE(concat("T ", T, ", D ", D, ", ", buckets, " buckets, layout ", static_cast<int>(layout)));
      AttentionPattern pattern = biased("none", buckets, 2);
      const int64_t probes = pattern.probes = std::min<int64_t>(buckets / 2, 4);
      const BiasedLayer t(*ctx, {2, T, 3, D}, layout, {pattern});
      std::vector<double> bias(static_cast<size_t>(t.layer.bucket_biases[0].numel()));
      for (size_t i = 0; i < bias.size(); ++i) bias[i] = std::sin(static_cast<double>(7 * i));
      t.write(t.layer.bucket_biases[0], bias);
      assign(t);
      const std::vector<double> directions = t.read(t.layer.projections[0]);
      const int64_t sides = layout == kSharedQk ? 1 : 2;
      for (int64_t side = 0; side < sides; ++side) {
        const std::vector<double> rows = t.read(side == 1 ? t.k : t.q);
        for (int64_t round = 0; round < 2; ++round) {
          std::vector<std::vector<double>> ids;  // of each probe
          for (int64_t probe = 0; probe < probes; ++probe) {
            const Segments& relation = t.layer.relations[static_cast<size_t>(round * probes + probe)];
            ids.push_back(t.read(side == 1 ? relation.k_segment : relation.q_segment));
          }
          for (int64_t b = 0; b < 2; ++b)
            for (int64_t h = 0; h < 3; ++h)
              for (int64_t i = 0; i < T; ++i) {
                const double* row = rows.data() + ((b * T + i) * 3 + h) * D;
                const double* its_bias = bias.data() + ((side * 2 + round) * 3 + h) * buckets;
                double square = 0;
                for (int64_t d = 0; d < D; ++d) square += row[d] * row[d];
                std::vector<double> score(its_bias, its_bias + buckets);
                for (int64_t c = 0; c < buckets / 2; ++c)
                  for (int64_t d = 0; d < D; ++d) {
                    const double z = row[d] * std::sqrt(static_cast<double>(D) / square) *
                                     directions[static_cast<size_t>(((round * 3 + h) * (buckets / 2) + c) * D + d)];
                    score[static_cast<size_t>(c)] += z, score[static_cast<size_t>(c + buckets / 2)] -= z;
                  }
                for (const std::vector<double>& of_probe : ids) {
                  const auto id = static_cast<size_t>(of_probe[static_cast<size_t>((b * 3 + h) * T + i)]);
                  ASSERT_LT(id, score.size());
                  ASSERT_NEAR(score[id], *std::max_element(score.begin(), score.end()), 1e-4) << "position " << i;
                  if (side == 0) score[id] = -INFINITY;
                }
              }
        }
      }
    }
}

// One that is far above the others takes all rows, whatever balances the scores besides; those of keys are their own.
TEST_P(BucketBias, DecidesWhereItIsLarge) {
  for (const char* balance : {"none", "mean", "prefix"}) {
    const BiasedLayer t(*ctx, {2, 300, 2, 64}, kQkv, {biased(balance, 8)});
    std::vector<double> bias(2 * 2 * 8);
    for (size_t row = 0; row < 4; ++row) bias[row * 8 + row + 3] = 1000;  // q of heads 0 and 1, k of heads 0 and 1
    t.write(t.layer.bucket_biases[0], bias);
    assign(t);
    const std::vector<double> q = t.read(t.layer.relations[0].q_segment), k = t.read(t.layer.relations[0].k_segment);
    for (size_t i = 0; i < q.size(); ++i) {
      const size_t head = i / 300 % 2;
      ASSERT_EQ(q[i], 3.0 + static_cast<double>(head)) << balance;
      ASSERT_EQ(k[i], 5.0 + static_cast<double>(head)) << balance;
    }
  }
}

// Rows that share most of their direction fall into two or three buckets until biases have learned.
TEST_P(BucketBias, LearnsToMakeBucketsOfOneSize) {
  for (const char* balance : {"none", "prefix"}) {
    const BiasedLayer t(*ctx, {2, 2048, 3, 64}, kSharedQk, {biased(balance, 16)});
    add_common(t);
    double before = 0;
    for (int step = 0; step < 60; ++step) {
      assign(t, static_cast<uint32_t>(step));
      t.build(*ctx);
      if (step == 0) before = this->balance(t);
      t.write(t.layer.bucket_loads[0], std::vector<double>(3 * 16));
      t.layer.add_bucket_loads(*ctx);
      t.layer.update_bucket_biases(*ctx);
    }
    if (std::string(balance) == "none") {
      EXPECT_LT(before, 5);
    }
    EXPECT_GT(this->balance(t), 14.5) << balance << ", was " << before;
  }
}

// Every token is counted once, in the rows of its head; those of other patterns are not touched.
TEST_P(BucketBias, LoadsAreTheTokensOfEachBucket) {
  AttentionPattern dense, hash = biased("none", 4, 2);
  dense.heads = 1, hash.heads = 2;
  const BiasedLayer t(*ctx, {2, 100, 3, 64}, kQkv, {dense, hash});
  assign(t);
  t.build(*ctx);
  for (int pass = 1; pass <= 2; ++pass) {  // they add up
    t.layer.add_bucket_loads(*ctx);
    const std::vector<double> loads = t.read(t.layer.bucket_loads[1]);
    for (size_t side = 0; side < 2; ++side)
      for (size_t round = 0; round < 2; ++round) {
        const Segments& relation = t.layer.relations[round];
        const std::vector<double> ids = t.read(side == 1 ? relation.k_segment : relation.q_segment);
        std::vector<double> want(2 * 4);
        for (size_t i = 0; i < ids.size(); ++i)
          if (const size_t head = i / 100 % 3; head > 0) want[(head - 1) * 4 + static_cast<size_t>(ids[i])] += pass;
        for (size_t i = 0; i < want.size(); ++i)
          EXPECT_EQ(loads[(side * 2 + round) * 8 + i], want[i]) << side << " " << round << " " << i;
      }
  }
}

TEST_P(BucketBias, TheUpdateIsTheFormula) {
  GuardedMemory memory(*ctx);
  const Tensor bias = memory.arena().take("bias", DType::kF32, {3, 4}),
               loads = memory.arena().take("loads", DType::kF64, {3, 4});
  memory.write(bias, {0.5, -0.5, 0, 0, 0, 0, 0, 0, 1, 2, -3, 0});
  memory.write(loads, {10, 20, 30, 40, 0, 1000, 0, 0, 0, 0, 0, 0});
  update_bucket_bias(*ctx, bias, loads, 0.1f);
  std::vector<double> want{0.5 + 0.1 * std::log(2.5), -0.5 + 0.1 * std::log(1.25), 0.1 * std::log(25.0 / 30),
                           0.1 * std::log(0.625)};
  const double mean = (want[0] + want[1] + want[2] + want[3]) / 4;
  for (double& value : want) value -= mean;
  want.insert(want.end(), {0.05, -0.15, 0.05, 0.05});  // no step is larger than the rate
  want.insert(want.end(), {1, 2, -3, 0});              // nothing was counted
  const std::vector<double> got = memory.read(bias);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << i;
}

// Directions are those of evaluation in every step, with a bias, which is of its directions, and where a config asks
// for it.
TEST_P(BucketBias, DirectionsStay) {
  AttentionPattern plain = biased("none", 8);
  plain.bias_rate = 0;
  AttentionPattern fixed = plain, reformer = plain;
  fixed.fixed_directions = reformer.fixed_directions = true;
  reformer.pattern = "reformer";
  for (const AttentionPattern& pattern : {biased("none", 8), fixed, reformer}) {
    SCOPED_TRACE(describe(pattern));
    const BiasedLayer t(*ctx, {1, 64, 2, 64}, kSharedQk, {pattern});
    assign(t, kEvaluationStep);
    const std::vector<double> evaluated = t.read(t.layer.projections[0]);
    for (const uint32_t step : {1u, 2u}) {
      assign(t, step);
      EXPECT_EQ(t.read(t.layer.projections[0]), evaluated);
    }
  }
  const BiasedLayer drawn(*ctx, {1, 64, 2, 64}, kSharedQk, {plain});
  assign(drawn, 1);
  const std::vector<double> other = drawn.read(drawn.layer.projections[0]);
  assign(drawn, 2);
  EXPECT_NE(drawn.read(drawn.layer.projections[0]), other);
}

INSTANTIATE_TEST_SUITE_P(Devices, BucketBias, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

TEST(BucketBiasErrors, NameTheTensor) {
  Context ctx;
  const Array loads(DType::kF64, {2, 4}), begin(DType::kI32, {1, 3, 5}), bias({2, 4});
  expect_error([&] { add_bucket_loads(ctx, loads, begin, 2); }, {"add_bucket_loads", "begin"});
  expect_error([&] { add_bucket_loads(ctx, bias, begin, 0); }, {"add_bucket_loads", "loads"});
  expect_error([&] { update_bucket_bias(ctx, bias, begin, 1.0f); }, {"update_bucket_bias", "loads"});
  const BiasedLayer t(ctx, {1, 8, 2, 16}, kSharedQk, {biased("none", 4)});
  LayerSegments layer = t.layer;
  layer.bucket_biases[0] = bias;
  expect_error(
      [&] {
        layer.assign_and_normalise_keys(ctx, t.k, t.inverse_norm,
                                        {.q = t.q,
                                         .k = {},
                                         .projections = t.layer.projections[0],
                                         .samples = t.samples,
                                         .seed = 1,
                                         .step = 0,
                                         .layer = 0});
      },
      {"bucket_bias", "[1, 1, 2, 4]"});
}

}  // namespace
}  // namespace scfa::test

// Queries that see several buckets, on both devices. The scores that buckets are ranked by have tests of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "support/attention_tensors.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/pattern_segments.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

class Probes : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    skip_without(GetParam());
    if (!IsSkipped() && !HasFatalFailure()) ctx = std::make_unique<Context>(GetParam());
  }
  // Of each relation.
  std::vector<std::vector<double>> ids(const AttentionTensors& t, bool of_keys) const {
    t.draw(*ctx, {.seed = 4, .step = 5, .layer = 6});
    t.assign(*ctx, {.seed = 4, .step = 5, .layer = 6});
    std::vector<std::vector<double>> all;
    for (const Segments& relation : t.layer.relations)
      all.push_back(t.read(of_keys ? relation.k_segment : relation.q_segment));
    return all;
  }
  std::unique_ptr<Context> ctx;
};

// The first probe is the bucket of a hash of one probe, and so is that of the key in every probe.
TEST_P(Probes, KeysAreInTheirBestBucketOnly) {
  for (const char* balance : {"none", "mean", "prefix"})
    for (const AttentionLayout layout : {kQkv, kSharedQk})
      for (const int64_t rounds : {1, 2}) {
        SCOPED_TRACE(concat(balance, ", rounds ", rounds, ", layout ", static_cast<int>(layout)));
        AttentionPattern one = hash_pattern(8, rounds, 1), four = hash_pattern(8, rounds, 4);
        one.balance = four.balance = balance;
        const AttentionTensors a(*ctx, {.shape = {2, 200, 3, 16}, .layout = layout, .patterns = {one}}, 1),
            b(*ctx, {.shape = {2, 200, 3, 16}, .layout = layout, .patterns = {four}}, 1);
        const std::vector<std::vector<double>> q_a = ids(a, false), k_a = ids(a, true), q_b = ids(b, false),
                                               k_b = ids(b, true);
        ASSERT_EQ(q_b.size(), static_cast<size_t>(4 * rounds));
        for (size_t round = 0; round < q_a.size(); ++round) {
          EXPECT_EQ(q_b[4 * round], q_a[round]);
          for (size_t probe = 0; probe < 4; ++probe) EXPECT_EQ(k_b[4 * round + probe], k_a[round]);
        }
      }
}

// The buckets of a query are those of its largest scores +-x . direction, in this order.
TEST_P(Probes, QueriesAreInTheirBestBuckets) {
  for (const auto& [T, D, buckets, probes] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{130, 64, 8, 2},
                                              {1, 16, 4, 2},
                                              {300, 128, 64, 4},
                                              {77, 24, 6, 3}}) {
    SCOPED_TRACE(concat("T ", T, ", D ", D, ", ", buckets, " buckets, ", probes, " probes"));
    const AttentionTensors t(
        *ctx, {.shape = {2, T, 3, D}, .layout = kSharedQk, .patterns = {hash_pattern(buckets, 1, probes)}}, 1);
    const std::vector<std::vector<double>> found = ids(t, false);
    const std::vector<double> rows = t.read(t.q), directions = t.read(t.layer.projections[0]);
    const int64_t half = buckets / 2;
    for (int64_t i = 0; i < 2 * 3 * T; ++i) {  // of the ids, (B, H, T)
      const int64_t b = i / (3 * T), h = i / T % 3, at = i % T;
      std::vector<double> score(static_cast<size_t>(buckets));
      for (int64_t c = 0; c < half; ++c) {
        double y = 0;
        for (int64_t d = 0; d < D; ++d)
          y += rows[static_cast<size_t>(((b * T + at) * 3 + h) * D + d)] *
               directions[static_cast<size_t>((h * half + c) * D + d)];
        score[static_cast<size_t>(c)] = y, score[static_cast<size_t>(c + half)] = -y;
      }
      for (const std::vector<double>& of_probe : found) {
        const auto id = static_cast<size_t>(of_probe[static_cast<size_t>(i)]);
        ASSERT_LT(id, score.size());
        ASSERT_NEAR(score[id], *std::max_element(score.begin(), score.end()), 1e-5) << "row " << i;
        score[id] = -INFINITY;
      }
    }
  }
}

// Random rows lie in buckets of about one size.
TEST_P(Probes, AQuerySeesTheKeysOfEach) {
  const auto pairs_seen = [&](int64_t probes) {
    const AttentionTensors t(*ctx, {.shape = {1, 400, 2, 32}, .layout = kQkv, .patterns = {hash_pattern(8, 1, probes)}},
                             1);
    const std::vector<std::vector<double>> q = ids(t, false), k = ids(t, true);
    int64_t seen = 0;
    for (size_t relation = 0; relation < q.size(); ++relation)
      for (size_t h = 0; h < 2; ++h)
        for (size_t i = 0; i < 400; ++i)
          for (size_t j = 0; j < i; ++j) seen += q[relation][h * 400 + i] == k[relation][h * 400 + j];
    return static_cast<double>(seen) / (400 * 399);
  };
  EXPECT_NEAR(pairs_seen(1), 1.0 / 8, 0.02);
  EXPECT_NEAR(pairs_seen(2), 2.0 / 8, 0.03);
  EXPECT_NEAR(pairs_seen(4), 4.0 / 8, 0.04);
}

INSTANTIATE_TEST_SUITE_P(Devices, Probes, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return std::string(name_of(row.param)); });

TEST(ProbesRules, AreNamed) {
  const auto check = [](int64_t buckets, int64_t rounds, int64_t probes) {
    return [=] { validate(hash_pattern(buckets, rounds, probes)); };
  };
  EXPECT_TRUE(fails_naming(check(16, 1, 0), {"attention.probes", "1 to 4", "not 0"}));
  EXPECT_TRUE(fails_naming(check(16, 1, 5), {"attention.probes", "1 to 4", "not 5"}));
  EXPECT_TRUE(fails_naming(check(2, 1, 2), {"attention.probes", "1 with 2 buckets", "not 2"}));
  EXPECT_TRUE(fails_naming(check(1, 1, 2), {"attention.probes", "1 with 1 bucket", "not 2"}));
  EXPECT_TRUE(fails_naming(check(6, 1, 4), {"attention.probes", "1 to 3 with 6 buckets", "not 4"}));
  EXPECT_TRUE(fails_naming(check(16, 3, 3), {"attention.probes", "rounds", "8 or less", "not 9"}));
  EXPECT_NO_THROW(validate(hash_pattern(16, 2, 4)));
  EXPECT_NO_THROW(validate(hash_pattern(4, 1, 2)));
  AttentionPattern fixed = hash_pattern(8, 1, 2);
  EXPECT_EQ(describe(fixed), "hash with 8 buckets and 2 probes");
  fixed.fixed_directions = true;
  EXPECT_EQ(describe(fixed), "hash with 8 buckets and 2 probes, fixed directions");
  EXPECT_EQ(describe(hash_pattern(8, 2, 3)), "hash with 8 buckets in 2 rounds and 3 probes");
  EXPECT_EQ(relation_count(hash_pattern(8, 2, 3)), 6);
  EXPECT_EQ(share_of_pairs(hash_pattern(8, 2, 2), 1024), 0.5);
}

}  // namespace
}  // namespace scfa::test

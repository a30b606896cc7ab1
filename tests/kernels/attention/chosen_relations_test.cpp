// Reformer's chunks and the best blocks, on both devices: what is chosen, and attention over it against the formulas.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/attention/patterns/reformer.h"
#include "support/chosen_relations.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

using enum AttentionLayout;

// On the CPU, and on the GPU where there is one.
class ChosenRelations : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    skip_without(GetParam());
    if (IsSkipped() || HasFatalFailure()) return;
    ctx = std::make_unique<Context>(GetParam());
  }
  AttentionTensors tensors(const AttentionShape& shape, AttentionLayout layout, const HeadPatterns& patterns) {
    return AttentionTensors(*ctx, {.shape = shape, .layout = layout, .patterns = patterns}, 7);
  }
  double tolerance() const { return GetParam() == Device::kGpu ? 1.2e-2 : 1e-5; }
  std::unique_ptr<Context> ctx;
};

TEST_P(ChosenRelations, Chunks) {
  for (const int64_t rounds : {1, 3})
    for (const int64_t chunk : {0, 5, 64})
      for (const int64_t T : {1, 40, 120}) {
        SCOPED_TRACE(concat(rounds, " rounds, chunk ", chunk, ", T ", T));
        const AttentionPattern pattern = reformer_pattern(4, rounds, chunk);
        const AttentionTensors t = tensors({2, T, 3, 64}, kSharedQk, {pattern});
        choose(*ctx, t);
        expect_chunks(t, 0, pattern);
        t.forward();
        t.backward();
        t.expect_formulas(tolerance());
      }
}

TEST_P(ChosenRelations, BestBlocks) {
  for (const AttentionLayout layout : {kQkv, kSharedQk})
    for (const int64_t D : {64, 40, 128})
      for (const int64_t T : {1, 16, 65, 128})
        for (const int64_t top_k : {1, 2, 4}) {
          SCOPED_TRACE(concat("layout ", static_cast<int>(layout), ", D ", D, ", T ", T, ", top ", top_k));
          const AttentionPattern pattern = blocks_pattern(16, top_k);
          const AttentionTensors t = tensors({2, T, 2, D}, layout, {pattern});
          choose(*ctx, t);
          expect_best_blocks(t, 0, pattern);
          t.forward();
          t.backward();
          t.expect_formulas(tolerance());
        }
}

TEST_P(ChosenRelations, ManyBlocks) {
  const AttentionPattern pattern = blocks_pattern(7, 8);
  const AttentionTensors t = tensors({1, 400, 2, 64}, kQkv, {pattern});
  choose(*ctx, t);
  expect_best_blocks(t, 0, pattern);
}

TEST_P(ChosenRelations, InAMixture) {
  AttentionPattern dense, blocks = blocks_pattern(16, 3), reformer = reformer_pattern(4, 1, 0);
  dense.window = 20, dense.heads = blocks.heads = 1, reformer.heads = 2;
  const AttentionTensors t = tensors({2, 100, 4, 64}, kSharedQk, {dense, blocks, reformer});
  choose(*ctx, t);
  expect_best_blocks(t, 1, blocks);
  expect_chunks(t, 2, reformer, 2);
  t.forward();
  t.backward();
  t.expect_formulas(tolerance());
}

// Keys and values for groups of heads; two relations.
TEST_P(ChosenRelations, BlocksOfGroupedHeads) {
  for (const int64_t kv_heads : {1, 2}) {
    const AttentionPattern pattern = blocks_pattern(16, 3);
    const AttentionTensors t = tensors({2, 100, 4, 64, kv_heads}, kQkv, {pattern});
    choose(*ctx, t);
    expect_best_blocks(t, 0, pattern);
    t.forward();
    t.backward();
    t.expect_formulas(tolerance());
  }
}

// All blocks have the same keys: each query takes the earliest ones, in their order.
TEST_P(ChosenRelations, TiesGoToTheEarlierBlock) {
  const AttentionTensors t = tensors({1, 64, 1, 64}, kSeparate, {blocks_pattern(8, 4)});
  std::vector<double> q = t.read(t.q), k = t.read(t.k);
  for (size_t i = 0; i < k.size(); ++i) k[i] = k[i % 512];
  // From the fifth block on, keys of another direction are better: they displace blocks that are tied.
  for (size_t i = 5 * 512; i < k.size(); ++i) k[i] = i % 64 == 0 ? 8 : 0;
  for (size_t i = 0; i < q.size(); i += 64) q[i] = 4;
  t.write(t.k, k), t.write(t.q, q);
  choose(*ctx, t);
  const std::vector<double> first = t.read(t.layer.relations[1].q_segment),
                            second = t.read(t.layer.relations[2].q_segment),
                            third = t.read(t.layer.relations[3].q_segment);
  EXPECT_EQ(first[39], 0);
  EXPECT_EQ(second[39], 1);
  EXPECT_EQ(third[39], 2);
  EXPECT_EQ(first[63], 5);  // then 6, and of the tied ones the first
  EXPECT_EQ(second[63], 6);
  EXPECT_EQ(third[63], 0);
}

// A part of the sequence at a time, as generation does it: the same bits.
TEST_P(ChosenRelations, BlocksInParts) {
  const AttentionPattern pattern = blocks_pattern(8, 3);
  const int64_t T = 50, H = 2;
  const AttentionTensors whole = tensors({1, T, H, 64}, kSeparate, {pattern});
  choose(*ctx, whole);
  const auto part_of = [&](const Tensor& x, int64_t first, int64_t count) {
    return x.reshape({T, H, 64}).slice(first, count).reshape({1, count, H, 64});
  };
  for (int64_t first = 0, count = 1; first < T;
       first += count, count = first < 20 ? 1 : std::min<int64_t>(9, T - first)) {
    GuardedMemory part_memory(*ctx);
    LayerSegments part = LayerSegments::plan(part_memory.arena(), {pattern}, 1, H, count, 64, T);
    part.states[0] = whole.layer.states[0];
    part.assign(*ctx, {.q = part_of(whole.q, first, count),
                       .k = part_of(whole.k, first, count),
                       .projections = {},
                       .samples = whole.samples,
                       .seed = 1,
                       .step = 0,
                       .layer = 0,
                       .first_position = first});
    for (size_t r = 0; r < whole.layer.relations.size(); ++r) {
      const std::vector<double> got = part_memory.read(part.relations[r].q_segment),
                                want = whole.read(whole.layer.relations[r].q_segment);
      for (int64_t h = 0; h < H; ++h)
        for (int64_t t = 0; t < count; ++t)
          ASSERT_EQ(got[static_cast<size_t>(h * count + t)], want[static_cast<size_t>(h * T + first + t)])
              << "relation " << r << ", position " << first + t;
    }
  }
}

TEST_P(ChosenRelations, KeysOfTheirOwnAreNamed) {
  const AttentionTensors t = tensors({1, 9, 2, 64}, kQkv, {reformer_pattern(4, 1, 0)});
  t.draw(*ctx);
  EXPECT_TRUE(fails_naming([&] { t.assign(*ctx); }, {"reformer", "model.shared_qk"}));
}

TEST(ReformerBucketPairs, AreThoseOfNeighbouringChunks) {
  const std::vector<std::vector<int64_t>> cases{{}, {0, 0}, {1, 1}, {5, 0, 7, 1, 19}, {40}, {3, 3, 3, 3}};
  for (const auto& sizes : cases)
    for (const int64_t length : {1, 4, 7, 64}) {
      std::vector<size_t> bucket;  // of each place in the sorted order
      for (size_t i = 0; i < sizes.size(); ++i) bucket.insert(bucket.end(), static_cast<size_t>(sizes[i]), i);
      double seen = 0, all = 0;
      for (size_t j = 0; j < bucket.size(); ++j)
        for (size_t i = 0; i < j; ++i) {
          if (bucket[i] != bucket[j]) continue;
          ++all;
          const auto chunks = static_cast<int64_t>(j) / length - static_cast<int64_t>(i) / length;
          seen += chunks <= 1 ? 1 : 0;
        }
      const BucketPairs found = reformer_bucket_pairs(sizes, length);
      EXPECT_EQ(found.seen, seen) << sizes.size() << " buckets, length " << length;
      EXPECT_EQ(found.all, all) << sizes.size() << " buckets, length " << length;
    }
}

INSTANTIATE_TEST_SUITE_P(Cpu, ChosenRelations, testing::Values(Device::kCpu));
INSTANTIATE_TEST_SUITE_P(Gpu, ChosenRelations, testing::Values(Device::kGpu));

}  // namespace
}  // namespace scfa::test

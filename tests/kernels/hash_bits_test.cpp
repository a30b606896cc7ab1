#include "kernels/hash_bits.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "support/compare.h"

namespace scfa::test {
namespace {

uint64_t hash_of(const Array& values) {
  Context ctx;
  const Array hash(DType::kI32, {2});
  hash_bits(ctx, hash, values);
  uint64_t bits = 0;
  std::memcpy(&bits, hash.view().data, sizeof bits);
  return bits;
}

TEST(HashBits, EveryBitAndEveryPlaceCounts) {
  Array values = normal({130}, 1);
  std::set<uint64_t> seen{hash_of(values)};
  for (const int64_t i : {0, 1, 64, 129})
    for (int bit = 0; bit < 32; ++bit) {
      uint32_t word = 0;
      std::memcpy(&word, values.as<float>() + i, sizeof word);
      const uint32_t flipped = word ^ uint32_t { 1 } << bit;
      std::memcpy(values.as<float>() + i, &flipped, sizeof word);
      EXPECT_TRUE(seen.insert(hash_of(values)).second) << i << " " << bit;
      std::memcpy(values.as<float>() + i, &word, sizeof word);
    }
  std::swap(values.as<float>()[3], values.as<float>()[4]);
  EXPECT_TRUE(seen.insert(hash_of(values)).second);
}

TEST(HashBits, IsTheSameForAnyNumberOfThreads) {
  const Array values = normal({100003}, 2);
  const uint64_t all = hash_of(values);
  for (const int threads : {1, 3}) {
    const Threads limit(threads);
    EXPECT_EQ(hash_of(values), all);
  }
}

TEST(HashBits, HalfAWordIsRefused) {
  Context ctx;
  const Array odd(DType::kU16, {3}), hash(DType::kI32, {2});
  EXPECT_TRUE(fails_naming([&] { hash_bits(ctx, hash, odd); }, {"hash_bits", "32-bit"}));
}

}  // namespace
}  // namespace scfa::test

// The test kit itself: a check that cannot fail checks nothing.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/guarded_memory.h"

namespace scfa::test {
namespace {

TEST(Support, Bf16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bf16(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(from_bf16(to_bf16(value))));
    else
      ASSERT_EQ(to_bf16(value), bits);
  }
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 0x1p-8f)), 1.0f);                // halfway: to the even neighbour below
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);  // halfway: to the even neighbour above
  EXPECT_EQ(from_bf16(to_bf16(1.0f + 0x1.02p-8f)), 1.0f + 0x1p-7f);
  EXPECT_TRUE(std::isinf(from_bf16(to_bf16(std::numeric_limits<float>::max()))));
}

TEST(Support, GuardBandsCatchWrites) {
  EXPECT_NONFATAL_FAILURE(
      {
        Array array({3});
        array.as<float>()[3] = 0.0f;
      },
      "written past f32[3]");
  EXPECT_NONFATAL_FAILURE(
      {
        Array array({3});
        array.as<float>()[-1] = 0.0f;
      },
      "written before the start of f32[3]");
}

class SupportMemory : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { skip_without(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Devices, SupportMemory, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return std::string(name_of(row.param)); });

// Zeroes one byte at an offset from the start of a tensor.
void zero_byte(Context& ctx, const Tensor& tensor, int64_t offset) {
  char* byte = static_cast<char*>(tensor.data) + offset;
  if (ctx.on_gpu())
    gpu::fill(byte, 0, 1, ctx.stream());
  else
    *byte = 0;
}

TEST_P(SupportMemory, GuardBandsOfAnArenasTensorsCatchWrites) {
  static Device device;  // EXPECT_NONFATAL_FAILURE takes statements that refer to no local variable
  device = GetParam();
  EXPECT_NONFATAL_FAILURE(
      {
        Context ctx(device);
        GuardedMemory memory(ctx);
        const Tensor first = memory.arena().take("first", DType::kF32, {3});
        memory.arena().take("second", DType::kU16, {5});
        zero_byte(ctx, first, 12);
      },
      "written past first f32[3]");
  EXPECT_NONFATAL_FAILURE(
      {
        Context ctx(device);
        GuardedMemory memory(ctx);
        zero_byte(ctx, memory.arena().take("only", DType::kF32, {3}), -1);
      },
      "written before the start of only f32[3]");
}

TEST_P(SupportMemory, TensorsOfAnArenaAreReadAndWritten) {
  Context ctx(GetParam());
  GuardedMemory memory(ctx);
  const Tensor a = memory.arena().take("a", DType::kF32, {2, 3}), b = memory.arena().take("b", DType::kBF16, {4});
  EXPECT_EQ(a.device, GetParam());
  for (const double x : memory.read(a)) EXPECT_TRUE(std::isnan(x));
  memory.write(a, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(memory.read(a.select(1)), (std::vector<double>{4, 5, 6}));
  EXPECT_EQ(memory.read(a.transpose(0, 1).slice(2, 1)), (std::vector<double>{3, 6}));
  memory.fill_normal(b, 1);
  for (const double x : memory.read(b)) EXPECT_TRUE(std::isfinite(x));
  memory.poison(b);
  for (const double x : memory.read(b)) EXPECT_TRUE(std::isnan(x));
  EXPECT_EQ(memory.read(a)[5], 6);
  const Array elsewhere({3});
  EXPECT_TRUE(fails_naming([&] { memory.read(elsewhere); }, {"not of this memory", "f32[3]"}));
}

TEST(Support, ArraysStartPoisoned) {
  Array array({5}), ids(DType::kU16, {2});
  EXPECT_TRUE(array.poisoned());
  for (const double x : array.values()) EXPECT_TRUE(std::isnan(x));
  EXPECT_EQ(ids.values(), (std::vector<double>{0xFFFF, 0xFFFF}));
  array.as<float>()[4] = 1.0f;
  EXPECT_FALSE(array.poisoned());
}

TEST(Support, CloseSeesWhatIsWrong) {
  const std::vector<double> want(1000, 1.0);
  std::vector<double> got = want;
  EXPECT_TRUE(close(got, want, 1e-9));
  got[500] += 1e-3;
  EXPECT_TRUE(close(got, want, 2e-4));
  EXPECT_FALSE(close(got, want, 5e-5));  // one element far off, though the norm is fine
  got[500] = NAN;
  EXPECT_FALSE(close(got, want, 1.0));
  got[500] = INFINITY;
  EXPECT_FALSE(close(got, want, 1.0));
  EXPECT_TRUE(close({INFINITY, 1.0}, {INFINITY, 1.0}, 1e-9));
  EXPECT_FALSE(close({-INFINITY}, {INFINITY}, 1.0));
  EXPECT_FALSE(close({1e-30}, {0.0}, 1.0));
  EXPECT_TRUE(close({1e-7}, {0.0}, 1e-6, 1.0));
  EXPECT_FALSE(close({1.0, 2.0}, {1.0}, 1.0));
}

TEST(Support, NumericGradient) {
  std::vector<double> x = {0.5, -2.0, 3.0};
  const auto f = [&] { return std::sin(x[0]) + x[1] * x[1] * x[2]; };
  EXPECT_TRUE(close(numeric_gradient(f, x), {std::cos(0.5), -12.0, 4.0}, 1e-9));
  EXPECT_EQ(x, (std::vector<double>{0.5, -2.0, 3.0}));
}

}  // namespace
}  // namespace scfa::test

#include "core/arena.h"

#include <gtest/gtest.h>

#include "support/compare.h"

namespace scfa {
namespace {

std::vector<Tensor> plan(Arena& arena) {
  return {arena.take("weights", DType::kF32, {3, 5}), arena.take("ids", DType::kU16, {1}),
          arena.take("weights", DType::kF32, {64}), arena.take("nothing", DType::kI32, {0, 4}),
          arena.take("ids", DType::kI32, {1000})};
}

TEST(Arena, MeasuresWhatItTakes) {
  Arena measured(Device::kCpu);
  for (const Tensor& t : plan(measured)) EXPECT_EQ(t.data, nullptr);
  Arena real(Device::kCpu, measured.used());
  plan(real);
  EXPECT_EQ(real.used(), measured.used());
  EXPECT_EQ(measured.used(), 256 + 256 + 256 + 0 + 4096);  // each rounded up to 256
}

TEST(Arena, AddsUpNames) {
  Arena arena(Device::kCpu);
  plan(arena);
  ASSERT_EQ(arena.items().size(), 3u);
  EXPECT_EQ(arena.items()[0].name, "weights");
  EXPECT_EQ(arena.items()[0].bytes, 512);
  EXPECT_EQ(arena.items()[1].name, "ids");
  EXPECT_EQ(arena.items()[1].bytes, 256 + 4096);
  EXPECT_EQ(arena.items()[2].name, "nothing");
  int64_t total = 0;
  for (const Arena::Item& item : arena.items()) total += item.bytes;
  EXPECT_EQ(total, arena.used());
}

TEST(Arena, TensorsAreAlignedAndApart) {
  Arena measured(Device::kCpu);
  plan(measured);
  Arena real(Device::kCpu, measured.used());
  const std::vector<Tensor> tensors = plan(real);
  const char* start = static_cast<const char*>(tensors[0].data);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(start) % 64, 0u);
  const char* end = start;
  for (const Tensor& t : tensors) {
    const char* begin = static_cast<const char*>(t.data);
    EXPECT_EQ((begin - start) % 256, 0) << t.describe();
    EXPECT_GE(begin, end) << t.describe();
    end = begin + t.bytes();
    EXPECT_TRUE(t.contiguous());
  }
  EXPECT_LE(end - start, real.used());
}

TEST(Arena, TakesMemoryFromASource) {
  std::vector<std::pair<std::string, std::vector<char>>> given;
  given.reserve(5);
  Arena arena(Device::kCpu, [&](const std::string& name, const Tensor& tensor) {
    EXPECT_EQ(tensor.data, nullptr);
    given.emplace_back(name, static_cast<size_t>(tensor.bytes()));
    return given.back().second.data();
  });
  const std::vector<Tensor> tensors = plan(arena);
  ASSERT_EQ(given.size(), tensors.size());
  for (size_t i = 0; i < given.size(); ++i) EXPECT_EQ(tensors[i].data, given[i].second.data());
  EXPECT_EQ(given[1].first, "ids");
  EXPECT_EQ(arena.items().size(), 3u);
}

TEST(Arena, OverflowNamesTheItem) {
  Arena arena(Device::kCpu, 512);
  arena.take("first", DType::kF32, {64});
  EXPECT_TRUE(test::fails_naming([&] { arena.take("second", DType::kF32, {65}); }, {"arena", "second", "512", "256"}));
  EXPECT_EQ(arena.used(), 256);  // what failed takes nothing
  EXPECT_NO_THROW(arena.take("third", DType::kF32, {64}));
}

TEST(Arena, FillReachesEveryByte) {
  Arena arena(Device::kCpu, 1024);
  const Tensor t = arena.take("all", DType::kU16, {512});
  arena.fill(0xFF);
  for (int i = 0; i < 512; ++i) ASSERT_EQ(t.as<uint16_t>()[i], 0xFFFF);
  Arena measured(Device::kCpu);
  EXPECT_NO_THROW(measured.fill(0));
}

}  // namespace
}  // namespace scfa

#include "core/buffer.h"

#include <gtest/gtest.h>

#include "core/context.h"
#include "support/compare.h"

namespace scfa {
namespace {

TEST(Buffer, OwnsAlignedMemory) {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{64}, size_t{1000}}) {
    const Buffer buffer(bytes, Device::kCpu);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  }
  EXPECT_EQ(Buffer(0, Device::kCpu).data(), nullptr);
  EXPECT_EQ(Buffer().bytes(), 0u);
}

TEST(Buffer, Moves) {
  Buffer a(100, Device::kCpu);
  void* data = a.data();
  Buffer b(std::move(a));
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT(bugprone-use-after-move): what a move leaves is under test
  Buffer c(50, Device::kCpu);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.bytes(), 100u);
  EXPECT_EQ(b.data(), nullptr);  // NOLINT(bugprone-use-after-move)
}

#ifndef __SANITIZE_ADDRESS__  // which ends the program where malloc would return null
TEST(Buffer, TooLargeNamesTheSize) {
  EXPECT_TRUE(test::fails_naming([] { Buffer(size_t{1} << 60, Device::kCpu); },
                                 {"not enough host memory", "1152921504606 MB"}));
}
#endif

TEST(Context, WithoutAGpuSaysSo) {
  if (gpu::available()) GTEST_SKIP() << "there is a GPU: " << gpu::description();
  EXPECT_TRUE(test::fails_naming([] { Context(Device::kGpu); }, {"device gpu"}));
  EXPECT_FALSE(gpu::description().empty());
}

TEST(Context, CpuNeedsNoGpu) {
  const Context ctx(Device::kCpu);
  EXPECT_FALSE(ctx.on_gpu());
  EXPECT_EQ(ctx.stream(), nullptr);
  EXPECT_NO_THROW(ctx.synchronize());
  EXPECT_NO_THROW(ctx.require_cpu("op"));
}

TEST(Error, TextIsItsPartsPutTogether) {
  EXPECT_TRUE(
      test::fails_naming([] { fail("file ", 3, ": ", 0.5, " is ", std::string("wrong")); }, {"file 3: 0.5 is wrong"}));
  EXPECT_NO_THROW(require(true, "nothing"));
  EXPECT_TRUE(test::fails_naming([] { require(false, "rule ", 'x'); }, {"rule x"}));
  EXPECT_THROW(fail("x"), std::runtime_error);
}

}  // namespace
}  // namespace scfa

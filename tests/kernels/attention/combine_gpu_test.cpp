// The GPU forms of combine_partial_results and add_gradient against the CPU forms on the same inputs, rounded to bf16.
#include "kernels/attention/combine.h"

#include <cmath>
#include <random>

#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr double kRounding = 3e-3;  // to bf16, once

class CombineGpu : public GpuTest {};

// Normal numbers, of which about every third is +inf.
void fill_lse(Array& lse, uint64_t seed) {
  lse.fill_normal(seed, 5.0);
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < lse.view().numel(); ++i)
    if (random() % 3 == 0) lse.as<float>()[i] = INFINITY;
}

Array as_f32(const Array& bf16) {
  Array f32("f32 of", Tensor(nullptr, DType::kF32, Device::kCpu, {bf16.view().numel()}));
  f32.assign(bf16.values());
  return f32;
}

// out and partial results lie in the middle of a (B, T, 3, H, D).
TEST_F(CombineGpu, EqualsTheCpu) {
  Context ctx(Device::kGpu), cpu;
  for (const int64_t D : {8, 24, 64, 72, 128})
    for (const int64_t T : {1, 33, 300}) {
      SCOPED_TRACE(concat("D ", D, ", T ", T));
      const int64_t B = 2, H = 3;
      Array out(DType::kBF16, {B, T, 3, H, D}), more(DType::kBF16, {B, T, H, D});
      Array lse({B, H, T}), more_lse({B, H, T});
      out.fill_normal(1), more.fill_normal(2);
      fill_lse(lse, 3), fill_lse(more_lse, 4);
      for (int64_t i = 0; i < B * H * T; ++i)  // where nothing is seen, out is zero
        if (lse.as<float>()[i] == INFINITY)
          std::fill_n(out.bits() + (((i / (H * T) * T + i % T) * 3 + 1) * H + i / T % H) * D, D, uint16_t{0});
      const Array out_f32 = as_f32(out), more_f32 = as_f32(more), want_lse({B, H, T});
      std::copy_n(lse.as<float>(), B * H * T, want_lse.as<float>());
      const Tensor want = part_of(out_f32.view().reshape({B, T, 3, H, D}), 1);
      combine_partial_results(cpu, want, want_lse, more_f32.view().reshape({B, T, H, D}), more_lse);
      const GpuCopy out_gpu(ctx, out), more_gpu(ctx, more), lse_gpu(ctx, lse), more_lse_gpu(ctx, more_lse);
      combine_partial_results(ctx, part_of(out_gpu, 1), lse_gpu, more_gpu, more_lse_gpu);
      const Array got(DType::kBF16, {B, T, 3, H, D}), got_lse({B, H, T});
      out_gpu.download(got), lse_gpu.download(got_lse);
      EXPECT_TRUE(close(part_of(got, 1), values(want), kRounding));
      EXPECT_TRUE(close(got_lse, want_lse.values(), 1e-5));
      for (const int64_t other : {0, 2}) EXPECT_EQ(values(part_of(got, other)), values(part_of(out, other)));

      add_gradient(cpu, want, more_f32.view().reshape({B, T, H, D}));
      add_gradient(ctx, part_of(out_gpu, 1), more_gpu);
      out_gpu.download(got);
      EXPECT_TRUE(close(part_of(got, 1), values(want), 2 * kRounding));
      for (const int64_t other : {0, 2}) EXPECT_EQ(values(part_of(got, other)), values(part_of(out, other)));
    }
}

TEST_F(CombineGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const Array x(DType::kBF16, {1, 4, 2, 12}), lse({1, 2, 4}), f32({1, 4, 2, 16});
  const GpuCopy x_gpu(ctx, x), lse_gpu(ctx, lse), f32_gpu(ctx, f32);
  EXPECT_TRUE(fails_naming([&] { combine_partial_results(ctx, x_gpu, lse_gpu, x_gpu, lse_gpu); },
                           {"combine_partial_results", "out", "multiple of 8"}));
  EXPECT_TRUE(fails_naming([&] { add_gradient(ctx, x_gpu, x_gpu); }, {"add_gradient", "to ", "multiple of 8"}));
  EXPECT_TRUE(fails_naming([&] { add_gradient(ctx, f32_gpu, f32_gpu); }, {"add_gradient: to ", "bf16"}));
}

}  // namespace
}  // namespace scfa::test

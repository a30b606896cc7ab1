// Choices of cuBLASLt's algorithms by measuring.
#include "kernels/linear/gemm.h"

#include <gtest/gtest.h>

#include "kernels/linear/linear.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

class GemmGpu : public GpuTest {};

TEST_F(GemmGpu, MeasuredChoicesCanBeKept) {
  const int64_t N = 512, K = 256, M = 768;
  Array x(DType::kBF16, {N, K}), w(DType::kBF16, {M, K}), y(DType::kBF16, {N, M}), again(DType::kBF16, {N, M});
  x.fill_normal(1), w.fill_normal(2);
  std::vector<gpu::GemmAlgorithm> choices;
  {
    Context ctx(Device::kGpu);
    const GpuCopy x_gpu(ctx, x), w_gpu(ctx, w), y_gpu(ctx, y);
    gpu::measure_gemms(ctx, true);
    linear_forward(ctx, y_gpu, x_gpu, w_gpu, {});
    gpu::measure_gemms(ctx, false);
    choices = gpu::gemm_algorithms(ctx);
    ASSERT_EQ(choices.size(), 1u);
    EXPECT_GT(choices[0].milliseconds, 0);
    linear_forward(ctx, y_gpu, x_gpu, w_gpu, {});
    EXPECT_EQ(gpu::gemm_algorithms(ctx).size(), 1u);
    y_gpu.download(y);
  }
  const auto run = [&](const std::vector<gpu::GemmAlgorithm>& given, bool measures) {
    Context ctx(Device::kGpu);
    const GpuCopy x_gpu(ctx, x), w_gpu(ctx, w), y_gpu(ctx, again);
    gpu::set_gemm_algorithms(ctx, given);
    gpu::measure_gemms(ctx, measures);
    linear_forward(ctx, y_gpu, x_gpu, w_gpu, {});
    y_gpu.download(again);
    return gpu::gemm_algorithms(ctx);
  };
  const auto kept = run(choices, true);  // not measured again
  EXPECT_EQ(kept[0].algorithm, choices[0].algorithm);
  EXPECT_EQ(kept[0].milliseconds, choices[0].milliseconds);
  EXPECT_TRUE(again.same_bits(y));
  std::vector<gpu::GemmAlgorithm> refused = choices;
  refused[0].algorithm.fill(~uint64_t{0});
  EXPECT_TRUE(run(refused, false).empty());
  EXPECT_TRUE(close(again, y.values(), 1e-2));
}

}  // namespace
}  // namespace scfa::test

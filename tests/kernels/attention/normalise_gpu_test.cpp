// The GPU implementation of normalise_keys against the CPU implementation on the same inputs, rounded to bf16.
#include "kernels/attention/normalise.h"

#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr double kRounding = 3e-3;  // to bf16, once: 2^-9 at most, about 1.1e-3 in the mean

// An f32 copy of a view's elements, packed.
Array packed(const ConstTensor& t) {
  Array copy({t.size(0), t.size(1), t.size(2), t.size(3)});
  copy.assign(values(t));
  return copy;
}

class NormaliseGpu : public GpuTest {};

struct Shape {
  int64_t B, T, H, D, parts;  // q is the first of so many parts of a tensor
};
const Shape kShapes[] = {{1, 1, 1, 8, 1},   {2, 65, 3, 16, 2},   {1, 1001, 2, 64, 3}, {2, 333, 12, 64, 2},
                         {3, 31, 1, 72, 3}, {2, 129, 5, 128, 2}, {1, 7, 3, 120, 1},   {2, 4097, 4, 64, 3}};

TEST_F(NormaliseGpu, ForwardEqualsTheCpu) {
  Context cpu, ctx(Device::kGpu);
  for (const auto& [B, T, H, D, parts] : kShapes) {
    SCOPED_TRACE(concat("B ", B, ", T ", T, ", H ", H, ", D ", D, ", parts ", parts));
    Array whole(DType::kBF16, {B, T, parts, H, D}), k(DType::kBF16, {B, T, H, D}), again(DType::kBF16, {B, T, H, D});
    whole.fill_normal(1, 3.0);
    const Array inverse({B, T, H}), want({B, T, H, D}), inverse_want({B, T, H});
    normalise_keys(cpu, want, inverse_want, packed(part_of(whole, 0)));
    const GpuCopy whole_gpu(ctx, whole), k_gpu(ctx, k), again_gpu(ctx, again), inverse_gpu(ctx, inverse);
    normalise_keys(ctx, again_gpu, inverse_gpu, part_of(whole_gpu, 0));
    normalise_keys(ctx, k_gpu, inverse_gpu, part_of(whole_gpu, 0));
    k_gpu.download(k), again_gpu.download(again), inverse_gpu.download(inverse);
    EXPECT_TRUE(close(k, want.values(), kRounding));
    EXPECT_TRUE(close(inverse, inverse_want.values(), 1e-6));
    EXPECT_TRUE(k.same_bits(again));
  }
}

TEST_F(NormaliseGpu, BackwardEqualsTheCpu) {
  Context cpu, ctx(Device::kGpu);
  for (const auto& [B, T, H, D, parts] : kShapes) {
    SCOPED_TRACE(concat("B ", B, ", T ", T, ", H ", H, ", D ", D, ", parts ", parts));
    Array q(DType::kBF16, {B, T, H, D}), k(DType::kBF16, {B, T, H, D}), dk(DType::kBF16, {B, T, H, D});
    Array whole(DType::kBF16, {B, T, parts, H, D}), again(DType::kBF16, {B, T, parts, H, D});
    q.fill_normal(1, 3.0), dk.fill_normal(2), whole.fill_normal(3), again.fill_normal(3);
    const Array inverse({B, T, H}), keys({B, T, H, D}), want = packed(part_of(whole, 0));
    normalise_keys(cpu, keys, inverse, packed(q));
    k.assign(keys.values());
    normalise_keys_backward(cpu, want, packed(dk), packed(k), inverse);
    const std::vector<double> beside = parts > 1 ? values(part_of(whole, 1)) : std::vector<double>();
    const GpuCopy whole_gpu(ctx, whole), again_gpu(ctx, again), dk_gpu(ctx, dk), k_gpu(ctx, k),
        inverse_gpu(ctx, inverse);
    normalise_keys_backward(ctx, part_of(whole_gpu, 0), dk_gpu, k_gpu, inverse_gpu);
    normalise_keys_backward(ctx, part_of(again_gpu, 0), dk_gpu, k_gpu, inverse_gpu);
    whole_gpu.download(whole), again_gpu.download(again);
    EXPECT_TRUE(close(part_of(whole, 0), want.values(), kRounding));
    EXPECT_TRUE(whole.same_bits(again));
    if (parts > 1) {
      EXPECT_EQ(values(part_of(whole, 1)), beside);
    }
  }
}

TEST_F(NormaliseGpu, ZeroStaysZero) {
  Context ctx(Device::kGpu);
  Array q(DType::kBF16, {1, 3, 1, 8}), k(DType::kBF16, {1, 3, 1, 8});
  q.fill(0);
  const Array inverse({1, 3, 1});
  const GpuCopy q_gpu(ctx, q), k_gpu(ctx, k), inverse_gpu(ctx, inverse);
  normalise_keys(ctx, k_gpu, inverse_gpu, q_gpu);
  k_gpu.download(k);
  EXPECT_EQ(k.values(), std::vector<double>(24, 0.0));
}

TEST_F(NormaliseGpu, RowsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  const Array inverse({1, 3, 1});
  const GpuCopy inverse_gpu(ctx, inverse);
  const std::pair<DType, int64_t> cases[] = {
      {DType::kBF16, 12}, {DType::kBF16, 4}, {DType::kBF16, 136}, {DType::kF32, 64}};
  for (const auto& [dtype, D] : cases) {
    const Array q(dtype, {1, 3, 1, D});
    const GpuCopy q_gpu(ctx, q);
    EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, q_gpu, inverse_gpu, q_gpu); },
                             {"normalise_keys", "q ", "bf16", "multiple of 8", std::to_string(D).c_str()}));
    EXPECT_TRUE(fails_naming([&] { normalise_keys_backward(ctx, q_gpu, q_gpu, q_gpu, inverse_gpu); },
                             {"normalise_keys_backward", "dq ", "bf16", std::to_string(D).c_str()}));
  }
  const Array odd(DType::kBF16, {1, 4, 1, 12});  // heads of 8 in rows of 12
  const GpuCopy odd_gpu(ctx, odd);
  const Array k(DType::kBF16, {1, 3, 1, 8});
  const GpuCopy k_gpu(ctx, k);
  Tensor strided = odd_gpu;
  strided.shape = {1, 3, 1, 8};
  EXPECT_TRUE(fails_naming([&] { normalise_keys(ctx, k_gpu, inverse_gpu, strided); },
                           {"normalise_keys", "q ", "aligned to 16 bytes"}));
}

}  // namespace
}  // namespace scfa::test

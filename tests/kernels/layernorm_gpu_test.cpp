// The GPU implementation of layernorm against the CPU implementation.
#include <cmath>

#include "kernels/layernorm.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr float kEps = 1e-5f;
const int64_t kRows[] = {1, 3, 65, 1000, 5003};  // the last: several for every warp or block
const int64_t kWidths[] = {8, 64, 768, 1024, 2048, 4096};

// Errors of one rounding to the type (bf16: 2^-9 at most, about 1.1e-3 in the mean), and of f32 sums.
double tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 3e-3 : 3e-6;
}

// An f32 copy with the values that dtype can hold.
Array as_f32(const Array& array, std::initializer_list<int64_t> shape) {
  Array copy(shape);
  copy.assign(array.values());
  return copy;
}

struct LayernormGpu : GpuTest, testing::WithParamInterface<DType> {
  Context cpu{Device::kCpu};
};

TEST_P(LayernormGpu, ForwardEqualsTheCpu) {
  Context ctx(Device::kGpu);
  const DType dtype = GetParam();
  for (const int64_t N : kRows)
    for (const int64_t C : kWidths) {
      if (N > 1000 && C > 768) continue;
      for (const int options : {0, 1, 2, 3, 7}) {  // bits: skip, bias, the sum written over x
        const bool with_skip = options & 1, with_bias = options & 2, in_place = options & 4;
        SCOPED_TRACE(concat("N ", N, ", C ", C, ", options ", options));
        Array x(dtype, {N, C}), skip(dtype, {N, C}), w(dtype, {C}), b(dtype, {C});
        x.fill_normal(1, 1.0, 0.25), skip.fill_normal(2), w.fill_normal(3), b.fill_normal(4);
        Array total(dtype, {N, C});
        total.assign(with_skip ? sum(x.values(), skip.values()) : x.values());  // rounded, as the GPU keeps it

        Array y_want({N, C}), mean_want({N}), rstd_want({N});
        const Array b_cpu = as_f32(b, {C});
        layernorm_forward(cpu, y_want, {}, mean_want, rstd_want, as_f32(total, {N, C}), {}, as_f32(w, {C}),
                          with_bias ? ConstTensor(b_cpu) : ConstTensor(), kEps);

        Array y(dtype, {N, C}), r(dtype, {N, C}), mean({N}), rstd({N}), y_again(dtype, {N, C});
        const GpuCopy y_gpu(ctx, y), r_gpu(ctx, r), mean_gpu(ctx, mean), rstd_gpu(ctx, rstd), x_gpu(ctx, x),
            skip_gpu(ctx, skip), w_gpu(ctx, w), b_gpu(ctx, b), again_gpu(ctx, y_again);
        const auto run = [&](const GpuCopy& out) {
          layernorm_forward(ctx, out, with_skip ? Tensor(in_place ? x_gpu : r_gpu) : Tensor(), mean_gpu, rstd_gpu,
                            x_gpu, with_skip ? ConstTensor(skip_gpu) : ConstTensor(), w_gpu,
                            with_bias ? ConstTensor(b_gpu) : ConstTensor(), kEps);
        };
        if (!in_place) run(again_gpu);
        run(y_gpu);
        y_gpu.download(y), mean_gpu.download(mean), rstd_gpu.download(rstd), again_gpu.download(y_again);
        (in_place ? x_gpu : r_gpu).download(r);
        EXPECT_TRUE(close(y, y_want.values(), tolerance(dtype)));
        EXPECT_TRUE(close(mean, mean_want.values(), 1e-5, 0.1));  // means of numbers of size one nearly cancel
        EXPECT_TRUE(close(rstd, rstd_want.values(), 1e-5));
        if (with_skip) {
          EXPECT_TRUE(r.same_bits(total));
        } else {
          EXPECT_TRUE(r.poisoned());
        }
        EXPECT_TRUE(in_place || y.same_bits(y_again));
      }
    }
}

TEST_P(LayernormGpu, BackwardEqualsTheCpu) {
  Context ctx(Device::kGpu);
  const DType dtype = GetParam();
  for (const int64_t N : kRows)
    for (const int64_t C : kWidths) {
      if (N > 1000 && C > 768) continue;
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(concat("N ", N, ", C ", C, ", bias ", with_bias));
        Array r(dtype, {N, C}), w(dtype, {C}), dy(dtype, {N, C}), dr(dtype, {N, C}), dr_again(dtype, {N, C});
        r.fill_normal(1, 1.0, 0.25), w.fill_normal(3), dy.fill_normal(5);
        dr.fill_normal(6), dr_again.fill_normal(6);
        Array dw = normal({C}, 7), db = normal({C}, 8), dw_again = normal({C}, 7), db_again = normal({C}, 8);
        Array sum = normal({C}, 9), sum_again = normal({C}, 9), sum_want = normal({C}, 9);
        const Array r_cpu = as_f32(r, {N, C}), w_cpu = as_f32(w, {C});
        Array y({N, C}), mean({N}), rstd({N}), dr_want = as_f32(dr, {N, C});
        Array dw_want = as_f32(dw, {C}), db_want = as_f32(db, {C});
        layernorm_forward(cpu, y, {}, mean, rstd, r_cpu, {}, w_cpu, {}, kEps);
        layernorm_backward(cpu, dr_want, dw_want, with_bias ? db_want.view() : Tensor(), sum_want,
                           with_bias ? dr_want.view() : Tensor(), as_f32(dy, {N, C}), r_cpu, w_cpu, mean, rstd, {});

        const Array scratch({layernorm_backward_scratch(ctx, N, C)});
        const GpuCopy r_gpu(ctx, r), w_gpu(ctx, w), dy_gpu(ctx, dy), mean_gpu(ctx, mean), rstd_gpu(ctx, rstd);
        const auto run = [&](const Array& to_dr, const Array& to_dw, const Array& to_db, const Array& to_sum) {
          const GpuCopy scratch_gpu(ctx, scratch), dr_gpu(ctx, to_dr), dw_gpu(ctx, to_dw), db_gpu(ctx, to_db);
          const GpuCopy sum_gpu(ctx, to_sum);
          layernorm_backward(ctx, dr_gpu, dw_gpu, with_bias ? Tensor(db_gpu) : Tensor(), sum_gpu,
                             with_bias ? Tensor(dr_gpu) : Tensor(), dy_gpu, r_gpu, w_gpu, mean_gpu, rstd_gpu,
                             scratch_gpu);
          dr_gpu.download(to_dr), dw_gpu.download(to_dw), db_gpu.download(to_db), sum_gpu.download(to_sum);
          scratch_gpu.download(scratch);
        };
        run(dr, dw, db, sum);
        run(dr_again, dw_again, db_again, sum_again);
        EXPECT_TRUE(close(dr, dr_want.values(), tolerance(dtype)));
        EXPECT_TRUE(close(dw, dw_want.values(), 1e-5));  // sums in f32 whatever the type of dy
        EXPECT_TRUE(close(db, db_want.values(), 1e-5));
        EXPECT_TRUE(close(sum, sum_want.values(), 1e-5));
        EXPECT_TRUE(sum.same_bits(sum_again));
        EXPECT_TRUE(dr.same_bits(dr_again));
        EXPECT_TRUE(dw.same_bits(dw_again));
        EXPECT_TRUE(db.same_bits(db_again));
      }
    }
}

TEST_P(LayernormGpu, WidthsItCannotTakeAreNamed) {
  Context ctx(Device::kGpu);
  for (const int64_t C : {4, 12, 4104}) {
    const Array x(GetParam(), {3, C}), w(GetParam(), {C}), statistic({3});
    const GpuCopy x_gpu(ctx, x), w_gpu(ctx, w), statistic_gpu(ctx, statistic);
    EXPECT_TRUE(fails_naming(
        [&] { layernorm_forward(ctx, x_gpu, {}, statistic_gpu, statistic_gpu, x_gpu, {}, w_gpu, {}, kEps); },
        {"layernorm_forward", "multiple of 8 up to 4096", concat("not ", C).c_str()}));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LayernormGpu, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) { return name_of(type.param); });

}  // namespace
}  // namespace scfa::test

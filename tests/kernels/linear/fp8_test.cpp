// GEMMs in 8-bit floating point, and what writes their operands.
#include "kernels/linear/fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/fp8_codec.h"
#include "kernels/layernorm.h"
#include "kernels/linear/linear.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

using Vector = std::vector<double>;
constexpr DType kTypes[] = {DType::kE4M3, DType::kE5M2};

double largest_of(const Vector& v) {
  double largest = 0;
  for (const double x : v) largest = std::max(largest, std::fabs(x));
  return largest;
}

// All finite values of a type that are not negative, in order: a code is a number of the same order.
std::vector<float> values_of(DType type) {
  std::vector<float> all;
  for (int code = 0; code < 128; ++code)
    if (const float x = cpu::decode_fp8(static_cast<uint8_t>(code), type); std::isfinite(x)) all.push_back(x);
  return all;
}

TEST(Fp8, ValuesAreThoseOfTheFormat) {
  const std::vector<float> e4m3 = values_of(DType::kE4M3), e5m2 = values_of(DType::kE5M2);
  EXPECT_EQ(e4m3.size(), 127u);
  EXPECT_EQ(e5m2.size(), 124u);
  EXPECT_EQ(e4m3.back(), 448.0f);
  EXPECT_EQ(e5m2.back(), 57344.0f);
  EXPECT_EQ(e4m3[1], 0x1p-9f);   // the smallest
  EXPECT_EQ(e5m2[1], 0x1p-16f);  // numbers
  EXPECT_EQ(e4m3[8], 0x1p-6f);   // the smallest
  EXPECT_EQ(e5m2[4], 0x1p-14f);  // normal ones
  for (const auto& all : {e4m3, e5m2}) EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
}

TEST(Fp8, RoundsToTheNearestAndTiesToEven) {
  for (const DType type : kTypes) {
    const std::vector<float> all = values_of(type);
    for (size_t i = 0; i + 1 < all.size(); ++i) {
      const float low = all[i], high = all[i + 1], middle = (low + high) / 2;
      const auto code = static_cast<uint8_t>(i);
      EXPECT_EQ(cpu::encode_fp8(low, type), code);
      EXPECT_EQ(cpu::encode_fp8(std::nextafter(middle, low), type), code);
      EXPECT_EQ(cpu::encode_fp8(std::nextafter(middle, high), type), code + 1);
      EXPECT_EQ(cpu::encode_fp8(middle, type), code + code % 2);
      EXPECT_EQ(cpu::encode_fp8(-high, type), 0x80 | (code + 1));
    }
    const auto last = static_cast<uint8_t>(all.size() - 1);
    for (const float beyond : {1.01f * all.back(), 1e30f, INFINITY}) EXPECT_EQ(cpu::encode_fp8(beyond, type), last);
    EXPECT_TRUE(std::isnan(cpu::decode_fp8(cpu::encode_fp8(NAN, type), type)));
  }
}

TEST(Fp8, ScaleIsTheLeastPowerOfTwo) {
  for (const DType type : kTypes) {
    const float largest = largest_fp8(type);
    EXPECT_EQ(fp8_scale(largest, type), 1.0f);
    EXPECT_EQ(fp8_scale(largest * 0x1p-20f, type), 0x1p-20f);
    EXPECT_EQ(fp8_scale(largest * 1.001f, type), 2.0f);
    EXPECT_EQ(fp8_scale(largest * 0.501f, type), 1.0f);
    EXPECT_EQ(fp8_scale(largest * 0.499f, type), 0.5f);
    for (const float none : {0.0f, INFINITY, NAN}) EXPECT_EQ(fp8_scale(none, type), 1.0f);
    EXPECT_EQ(fp8_scale(1e-44f, type), 0x1p-100f);  // its inverse is finite
    EXPECT_EQ(fp8_scale(3e38f, type), 0x1p100f);
  }
}

struct Scaled {
  Array values, scale;
  Scaled(DType type, std::initializer_list<int64_t> shape) : values(type, shape), scale({1}) {}
  operator ScaledTensor() const { return {values, scale}; }  // NOLINT(google-explicit-constructor)
  Vector stands_for() const {
    Vector all = values.values();
    for (double& x : all) x *= scale.values()[0];
    return all;
  }
};

TEST(Fp8, QuantiseKeepsThreeOrTwoBits) {
  Context ctx;
  const int64_t N = 48, K = 80;
  for (const DType type : kTypes)
    for (const double size : {1.0, 1e-7, 1e5}) {
      const Array x = normal({N, K}, 1, size);
      Scaled y(type, {N, K});
      Array transposed(type, {K, N});
      quantise(ctx, y, transposed, x);
      const Vector want = x.values(), got = y.stands_for(), columns = transposed.values();
      const double scale = y.scale.values()[0], most = largest_of(want),
                   half_step = type == DType::kE4M3 ? 1.0 / 16 : 1.0 / 8;
      EXPECT_EQ(scale, fp8_scale(static_cast<float>(most), type));
      for (int64_t i = 0; i < N; ++i)
        for (int64_t k = 0; k < K; ++k) {
          const auto at = static_cast<size_t>(i * K + k);
          ASSERT_LE(std::fabs(got[at] - want[at]), half_step * std::fabs(want[at]) + most * 1e-5);
          ASSERT_EQ(columns[static_cast<size_t>(k * N + i)] * scale, got[at]);
        }
    }
}

// Inputs for which the bound is reached, or nearly.
TEST(Fp8, BoundsHoldAndAreClose) {
  Context ctx;
  const int64_t C = 64, M = 48, N = 256;
  const Array norm_w = normal({C}, 1, 0.3, 1.0), norm_b = normal({C}, 2, 0.1), w = normal({M, C}, 3, 0.2);
  const Array bias = normal({M}, 4);
  const Vector nw = norm_w.values(), ws = w.values();
  Array x = normal({N, C}, 5);
  for (int64_t j = 0; j < M; ++j)  // rows along the product's own
    for (int64_t c = 0; c < C; ++c)
      x.as<float>()[j * C + c] = static_cast<float>(nw[static_cast<size_t>(c)] * ws[static_cast<size_t>(j * C + c)]);
  for (int64_t c = 0; c < C; ++c) {  // and one element alone in its row
    for (int64_t other = 0; other < C; ++other) x.as<float>()[(M + c) * C + other] = c == other ? 10.0f : 0.0f;
  }
  Array y({N, C}), mean({N}), rstd({N}), pre_gelu({N, M}), act({N, M});
  Array ln_scale({1}), gelu_scale({1});
  layernorm_output_scale(ctx, ln_scale, norm_w, norm_b);
  gelu_output_scale(ctx, gelu_scale, w, norm_w, norm_b, bias);
  Scaled y8(DType::kE4M3, {N, C}), act8(DType::kE4M3, {N, M});
  y8.scale.assign(ln_scale.values()), act8.scale.assign(gelu_scale.values());
  layernorm_forward(ctx, y, {}, mean, rstd, x, {}, norm_w, norm_b, 1e-5f, y8);
  linear_gelu_forward(ctx, act, pre_gelu, y, w, bias, Gelu::kErf, act8);
  EXPECT_LE(largest_of(y.values()), 448 * ln_scale.values()[0]);
  EXPECT_GE(largest_of(y.values()), 448 * ln_scale.values()[0] / 4);
  EXPECT_LE(largest_of(act.values()), 448 * gelu_scale.values()[0]);
  EXPECT_GE(largest_of(act.values()), 448 * gelu_scale.values()[0] / 8);
  EXPECT_TRUE(close(y8.stands_for(), y.values(), 0.04));
  EXPECT_TRUE(close(act8.stands_for(), act.values(), 0.04));

  const Array dy = normal({N, M}, 6, 1e-6), w2 = normal({M, C}, 7, 0.5), before = normal({N, C}, 8);
  Scaled dy8(DType::kE5M2, {N, M}), w8(DType::kE4M3, {M, C}), dx8(DType::kE5M2, {N, C});
  Array w8t(DType::kE4M3, {C, M}), dx({N, C});
  quantise(ctx, dy8, {}, dy);
  quantise(ctx, w8, w8t, w2);
  gelu_gradient_scale(ctx, dx8.scale, dy8.scale, w8.scale, M);
  linear_gelu_dgrad(ctx, dx, {}, dy8, ScaledTensor{w8t, w8.scale}, before, {}, Gelu::kTanh, dx8);
  EXPECT_LE(largest_of(dx.values()), 57344 * dx8.scale.values()[0]);
  EXPECT_TRUE(close(dx8.stands_for(), dx.values(), 0.08));  // the bound is far, but exponents reach further
}

// With 8-bit operands the GEMMs are those of the numbers that these stand for.
TEST(Fp8, GemmsAreThoseOfTheNumbers) {
  Context ctx;
  const int64_t N = 32, K = 48, M = 80;
  const Array x = normal({N, K}, 1), w = normal({M, K}, 2, 0.05), bias = normal({M}, 3), dy = normal({N, M}, 4, 1e-4);
  Scaled x8(DType::kE4M3, {N, K}), w8(DType::kE4M3, {M, K}), dy8(DType::kE5M2, {N, M});
  Array w8t(DType::kE4M3, {K, M}), y({N, M}), want({N, M}), dx({N, K}), dx_want({N, K}), act({N, M}), pre_gelu({N, M});
  quantise(ctx, x8, {}, x), quantise(ctx, w8, w8t, w), quantise(ctx, dy8, {}, dy);
  Array x_again({N, K}), w_again({M, K}), dy_again({N, M});
  x_again.assign(x8.stands_for()), w_again.assign(w8.stands_for()), dy_again.assign(dy8.stands_for());
  linear_forward(ctx, y, x8, w8, bias);
  linear_forward(ctx, want, x_again, w_again, bias);
  EXPECT_TRUE(y.same_bits(want));
  const ScaledTensor w_transposed{w8t, w8.scale};
  linear_dgrad(ctx, dx, dy8, w_transposed);
  linear_dgrad(ctx, dx_want, dy_again, w_again);
  EXPECT_TRUE(close(dx, dx_want.values(), 1e-6));
  linear_gelu_forward(ctx, act, pre_gelu, x8, w8, bias, Gelu::kErf);
  linear_forward(ctx, want, x_again, w_again, {});
  EXPECT_TRUE(pre_gelu.same_bits(want));
}

TEST(Fp8, WrongOperandsAreNamed) {
  Context ctx;
  const Array y({32, 48}), x({32, 16}), w({48, 16}), odd({7, 16});
  const Scaled x8(DType::kE4M3, {32, 16}), w8(DType::kE4M3, {48, 16}), dy8(DType::kE5M2, {32, 16});
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, y, x8, w, {}); }, {"linear_forward", "x and w", "scaled"}));
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, y, x, w8, {}); }, {"linear_forward", "x and w", "scaled"}));
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, y, dy8, w8, {}); }, {"linear_forward", "x must be e4m3", "e5m2"}));
  EXPECT_TRUE(fails_naming([&] { linear_dgrad(ctx, y, x8, w8); }, {"linear_dgrad", "dy must be e5m2"}));
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, x, x8, w8, {}); }, {"linear_forward", "y must be", "(32, 48)"}));
  Scaled small(DType::kE4M3, {7, 16}), wrong(DType::kF32, {32, 16});
  EXPECT_TRUE(fails_naming([&] { quantise(ctx, small, {}, odd); }, {"quantise", "multiples of 16", "7"}));
  EXPECT_TRUE(fails_naming([&] { quantise(ctx, wrong, {}, x); }, {"quantise", "e4m3 or e5m2", "f32"}));
  EXPECT_TRUE(fails_naming([&] { quantise(ctx, x8, w8.values, x); }, {"quantise", "transposed", "16, 32"}));
  Array mean({32}), rstd({32}), norm({16}), out({32, 16});
  EXPECT_TRUE(fails_naming([&] { layernorm_forward(ctx, out, {}, mean, rstd, x, {}, norm, {}, 1e-5f, dy8); },
                           {"layernorm_forward", "y_fp8", "e4m3"}));
  EXPECT_TRUE(fails_naming([&] { gelu_forward(ctx, out, x, {}, Gelu::kErf, dy8); }, {"gelu_forward", "y_fp8", "e4m3"}));
}

// ---- on a GPU -------------------------------------------------------------------------------------------------------
class Fp8Gpu : public GpuTest {};

struct ScaledCopy {
  GpuCopy values, scale;
  ScaledCopy(const Context& ctx, const Scaled& host) : values(ctx, host.values), scale(ctx, host.scale) {}
  operator ScaledTensor() const { return {values, scale}; }  // NOLINT(google-explicit-constructor)
  void download(const Scaled& to) const { values.download(to.values), scale.download(to.scale); }
};

// As f32, what bf16 holds of it.
Array widened(const Array& bf16) {
  Array wide(DType::kF32, {bf16.view().size(0), bf16.view().numel() / bf16.view().size(0)});
  wide.assign(bf16.values());
  return wide;
}

// To the bit, over all sizes of elements.
TEST_F(Fp8Gpu, QuantiseEqualsTheCpu) {
  Context cpu, gpu(Device::kGpu);
  for (const DType type : kTypes)
    for (const auto& [N, K] : {std::pair<int64_t, int64_t>{16, 16}, {48, 80}, {208, 1040}, {4096, 768}}) {
      Array x(DType::kBF16, {N, K});
      x.fill_normal(1, 1e-4);
      for (int64_t i = 0; i < std::min<int64_t>(N * K, 256); ++i)
        x.bits()[i] = to_bf16(std::ldexp(1.0f + static_cast<float>(i % 16) / 16, -8 - static_cast<int>(i) / 8));
      Scaled want(type, {N, K}), got(type, {N, K});
      Array want_t(type, {K, N}), got_t(type, {K, N});
      quantise(cpu, want, want_t, widened(x));
      const GpuCopy x_gpu(gpu, x), t_gpu(gpu, got_t);
      const ScaledCopy y_gpu(gpu, got);
      quantise(gpu, y_gpu, t_gpu, x_gpu);
      y_gpu.download(got), t_gpu.download(got_t);
      EXPECT_TRUE(got.values.same_bits(want.values)) << N << ' ' << K;
      EXPECT_TRUE(got.scale.same_bits(want.scale));
      EXPECT_TRUE(got_t.same_bits(want_t));
      const ScaledCopy alone(gpu, Scaled(type, {N, K}));
      quantise(gpu, alone, {}, x_gpu);
      alone.download(got);
      EXPECT_TRUE(got.values.same_bits(want.values));
    }
}

TEST_F(Fp8Gpu, ScalesEqualTheCpu) {
  Context cpu, gpu(Device::kGpu);
  for (const auto& [M, C] : {std::pair<int64_t, int64_t>{16, 64}, {3072, 768}, {4800, 1200}})
    for (const bool biases : {false, true}) {
      Array w(DType::kBF16, {M, C}), norm_w(DType::kBF16, {C, 1}), norm_b(DType::kBF16, {C, 1}),
          bias(DType::kBF16, {M, 1});
      w.fill_normal(1, 0.05), norm_w.fill_normal(2), norm_b.fill_normal(3), bias.fill_normal(4);
      const Array w32 = widened(w), nw32 = widened(norm_w), nb32 = widened(norm_b), b32 = widened(bias);
      const auto flat = [](const Tensor& t) { return t.reshape({t.numel()}); };
      const auto if_any = [&](const Tensor& t) { return biases ? flat(t) : Tensor(); };
      Array ln_want({1}), want({1}), ln_got({1}), got({1});
      layernorm_output_scale(cpu, ln_want, flat(nw32), if_any(nb32));
      gelu_output_scale(cpu, want, w32, flat(nw32), if_any(nb32), if_any(b32));
      const GpuCopy w_gpu(gpu, w), nw_gpu(gpu, norm_w), nb_gpu(gpu, norm_b), b_gpu(gpu, bias), ln(gpu, ln_got),
          out(gpu, got);
      layernorm_output_scale(gpu, ln, flat(nw_gpu), if_any(nb_gpu));
      gelu_output_scale(gpu, out, w_gpu, flat(nw_gpu), if_any(nb_gpu), if_any(b_gpu));
      ln.download(ln_got), out.download(got);
      EXPECT_EQ(ln_got.values(), ln_want.values());
      EXPECT_EQ(got.values(), want.values());
      Array dy_scale({1}), gradient_want({1}), gradient({1});
      dy_scale.fill(0x1p-30);
      const GpuCopy dy_gpu(gpu, dy_scale), gradient_gpu(gpu, gradient);
      gelu_gradient_scale(cpu, gradient_want, dy_scale, want, M);
      gelu_gradient_scale(gpu, gradient_gpu, dy_gpu, out, M);
      gradient_gpu.download(gradient);
      EXPECT_EQ(gradient.values(), gradient_want.values());
    }
}

// What ops write in 8 bits is what they write in bf16, by the scale, to the bit; and that is what they write without.
TEST_F(Fp8Gpu, CopiesOfOutputsAreOfWhatIsStored) {
  Context gpu(Device::kGpu);
  for (const int64_t C : {64, 768, 1536, 3072}) {
    const int64_t N = 131;
    Array x(DType::kBF16, {N, C}), w(DType::kBF16, {C}), b(DType::kBF16, {C}), y(DType::kBF16, {N, C}),
        plain(DType::kBF16, {N, C});
    x.fill_normal(1), w.fill_normal(2), b.fill_normal(3);
    Array mean({N}), rstd({N}), dbias({C});
    dbias.fill(0);
    const GpuCopy x_gpu(gpu, x), w_gpu(gpu, w), b_gpu(gpu, b), y_gpu(gpu, y), plain_gpu(gpu, plain),
        mean_gpu(gpu, mean), rstd_gpu(gpu, rstd), dbias_gpu(gpu, dbias);
    const auto check = [&](DType type, double scale, const auto& run) {
      Scaled got(type, {N, C}), want(type, {N, C});
      got.scale.fill(scale), want.scale.fill(scale);
      const ScaledCopy got_gpu(gpu, got);
      run(plain_gpu, ScaledTensor());
      run(y_gpu, got_gpu);
      plain_gpu.download(plain), y_gpu.download(y), got_gpu.download(got);
      EXPECT_TRUE(y.same_bits(plain));
      cpu::encode_fp8(want, widened(y));
      EXPECT_TRUE(got.values.same_bits(want.values)) << C;
    };
    for (const double scale : {0x1p-4, 0x1p-9, 4.0}) {  // in the middle, with some beyond the largest, with small ones
      check(DType::kE4M3, scale, [&](const Tensor& out, const ScaledTensor& copy) {
        layernorm_forward(gpu, out, {}, mean_gpu, rstd_gpu, x_gpu, {}, w_gpu, b_gpu, 1e-5f, copy);
      });
      for (const Gelu kind : {Gelu::kErf, Gelu::kTanh}) {
        check(DType::kE4M3, scale,
              [&](const Tensor& out, const ScaledTensor& copy) { gelu_forward(gpu, out, x_gpu, b_gpu, kind, copy); });
        check(DType::kE5M2, scale, [&](const Tensor& out, const ScaledTensor& copy) {
          gelu_backward(gpu, out, dbias_gpu, x_gpu, x_gpu, b_gpu, kind, copy);
        });
      }
    }
  }
}

TEST_F(Fp8Gpu, GemmsEqualTheCpu) {
  if (scfa::gpu::properties().compute < 89) GTEST_SKIP() << "the GPU has no 8-bit floating point";
  Context cpu, gpu(Device::kGpu);
  for (const auto& [N, K, M] : {std::array<int64_t, 3>{16, 64, 48}, {528, 768, 2304}, {256, 3072, 768}}) {
    const Array x = normal({N, K}, 1), w = normal({M, K}, 2, 0.05), dy = normal({N, M}, 3, 1e-6);
    Array bias(DType::kBF16, {M, 1}), y(DType::kBF16, {N, M}), y2(DType::kBF16, {N, M}), dx(DType::kBF16, {N, K});
    bias.fill_normal(4);
    Scaled x8(DType::kE4M3, {N, K}), w8(DType::kE4M3, {M, K}), dy8(DType::kE5M2, {N, M});
    Array w8t(DType::kE4M3, {K, M}), want({N, M}), dx_want({N, K});
    quantise(cpu, x8, {}, x), quantise(cpu, w8, w8t, w), quantise(cpu, dy8, {}, dy);
    const Array b32 = widened(bias);
    linear_forward(cpu, want, x8, w8, b32.view().reshape({M}));
    linear_dgrad(cpu, dx_want, dy8, ScaledTensor{w8t, w8.scale});
    const ScaledCopy xg(gpu, x8), wg(gpu, w8), dyg(gpu, dy8);
    const GpuCopy wtg(gpu, w8t), bg(gpu, bias), yg(gpu, y), y2g(gpu, y2), dxg(gpu, dx);
    const Tensor b = Tensor(bg).reshape({M});
    linear_forward(gpu, yg, xg, wg, b);
    linear_forward(gpu, y2g, xg, wg, b);
    linear_dgrad(gpu, dxg, dyg, ScaledTensor{wtg, wg.scale});
    yg.download(y), y2g.download(y2), dxg.download(dx);
    EXPECT_TRUE(close(y, want.values(), 3e-3)) << N << ' ' << K << ' ' << M;
    EXPECT_TRUE(y.same_bits(y2));
    EXPECT_TRUE(close(dx, dx_want.values(), 3e-3));
    const Array odd(DType::kBF16, {8, M});
    const Scaled few(DType::kE4M3, {8, K});
    const GpuCopy oddg(gpu, odd);
    const ScaledCopy fewg(gpu, few);
    EXPECT_TRUE(fails_naming([&] { linear_forward(gpu, oddg, fewg, wg, {}); }, {"multiples of 16", "8"}));
  }
}

}  // namespace
}  // namespace scfa::test

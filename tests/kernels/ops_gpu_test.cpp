// The GPU implementations of the ops around attention against their CPU implementations.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/adamw.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/hash_bits.h"
#include "kernels/linear/gelu.h"
#include "kernels/linear/linear.h"
#include "kernels/random.h"
#include "kernels/rotary.h"
#include "support/gpu_ops.h"

namespace scfa::test {
namespace {

constexpr DType kBF16 = DType::kBF16, kF32 = DType::kF32, kI32 = DType::kI32, kU16 = DType::kU16;
constexpr double kRounded = 4e-3;  // a result rounded to bf16 once: 2^-9 at most, less on average
constexpr double kSum = 2e-5;      // f32 sums in another order

class OpsGpu : public GpuTest {};

std::vector<double> whole_numbers(int64_t count, int64_t below, uint64_t seed) {
  std::vector<double> numbers(static_cast<size_t>(count));
  for (double& x : numbers) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    x = static_cast<double>((seed >> 33) % static_cast<uint64_t>(below));
  }
  return numbers;
}

TEST_F(OpsGpu, Linear) {
  struct Sizes {
    int64_t N, K, M;
  };
  for (const auto& [N, K, M] :
       {Sizes{1, 8, 8}, {65, 48, 24}, {1000, 64, 200}, {129, 768, 2304}, {33, 24, 50304}, {7, 5, 3}, {64, 3072, 768}})
    for (const bool with_bias : {false, true}) {
      SCOPED_TRACE(concat("N ", N, ", K ", K, ", M ", M, ", bias ", with_bias));
      Twin x(kBF16, {N, K}), w(kBF16, {M, K}), b(kBF16, {M}), y(kBF16, {N, M}), dx(kBF16, {N, K});
      Twin dy(kBF16, {N, M}), dw(kF32, {M, K}), db(kF32, {M});
      x.fill_normal(1), w.fill_normal(2), b.fill_normal(3), dy.fill_normal(4), dw.fill_normal(5), db.fill_normal(6);
      run_on_both({&y, &x, &w, &b}, [&](Context& ctx, const Views& v) {
        linear_forward(ctx, v[0], v[1], v[2], with_bias ? v[3] : Tensor());
      });
      EXPECT_TRUE(agree(y, kRounded));
      run_on_both({&dx, &dw, &db, &dy, &x, &w}, [&](Context& ctx, const Views& v) {
        linear_dgrad(ctx, v[0], v[3], v[5]);
        linear_wgrad(ctx, v[1], v[3], v[4]);
        if (with_bias) linear_bgrad(ctx, v[2], v[3]);
      });
      EXPECT_TRUE(agree(dx, kRounded));
      EXPECT_TRUE(agree(dw, kSum));
      EXPECT_TRUE(agree(db, kSum));
    }
}

TEST_F(OpsGpu, LinearWithGelu) {
  struct Sizes {
    int64_t N, K, M;
  };
  for (const auto& [N, K, M] : {Sizes{128, 192, 256}, {1, 200, 8}, {777, 256, 1000}, {65, 48, 24}, {7, 5, 3}})
    for (const Gelu kind : {Gelu::kErf, Gelu::kTanh})
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(
            concat("N ", N, ", K ", K, ", M ", M, ", bias ", with_bias, kind == Gelu::kErf ? ", erf" : ", tanh"));
        Twin x(kBF16, {N, K}), w(kBF16, {M, K}), b(kBF16, {M}), y(kBF16, {N, M}), pre_gelu(kBF16, {N, M});
        x.fill_normal(1), w.fill_normal(2, 0.1), b.fill_normal(3);
        run_on_both({&y, &pre_gelu, &x, &w, &b}, [&](Context& ctx, const Views& v) {
          linear_gelu_forward(ctx, v[0], v[1], v[2], v[3], with_bias ? v[4] : Tensor(), kind);
        });
        EXPECT_TRUE(agree(pre_gelu, kRounded));
        EXPECT_TRUE(agree(y, kRounded));
        // The gradient of the second layer's input, M wide, from its K outputs.
        Twin dy(kBF16, {N, K}), w2(kBF16, {K, M}), before(kBF16, {N, M}), dpre_gelu(kBF16, {N, M}), db(kF32, {M});
        dy.fill_normal(4), w2.fill_normal(5, 0.1), before.fill_normal(6), db.fill_normal(7);
        run_on_both({&dpre_gelu, &db, &dy, &w2, &before, &b}, [&](Context& ctx, const Views& v) {
          linear_gelu_dgrad(ctx, v[0], with_bias ? v[1] : Tensor(), v[2], v[3], v[4], with_bias ? v[5] : Tensor(),
                            kind);
        });
        EXPECT_TRUE(agree(dpre_gelu, kRounded));
        EXPECT_TRUE(agree(db, kRounded));  // sums of products that were rounded to bf16
      }
}

// Rows of a pack and of less, of more columns than a block has, more rows than a part has; in place or not.
TEST_F(OpsGpu, Gelu) {
  struct Sizes {
    int64_t N, C;
  };
  for (const auto& [N, C] : {Sizes{1, 1}, {3, 7}, {65, 8}, {1000, 257}, {129, 264}, {300, 3072}, {5003, 264}})
    for (const Gelu kind : {Gelu::kErf, Gelu::kTanh})
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(concat("N ", N, ", C ", C, ", bias ", with_bias, kind == Gelu::kErf ? ", erf" : ", tanh"));
        Twin x(kBF16, {N, C}), y(kBF16, {N, C}), dy(kBF16, {N, C}), dx(kBF16, {N, C}), b(kBF16, {C}), db(kF32, {C});
        x.fill_normal(1, 2.0), dy.fill_normal(2), b.fill_normal(3), db.fill_normal(4);
        run_on_both({&y, &x, &b}, [&](Context& ctx, const Views& v) {
          gelu_forward(ctx, v[0], v[1], with_bias ? v[2] : Tensor(), kind);
        });
        EXPECT_TRUE(agree(y, kRounded));
        run_on_both({&dx, &db, &dy, &x, &b}, [&](Context& ctx, const Views& v) {
          gelu_backward(ctx, v[0], with_bias ? v[1] : Tensor(), v[2], v[3], with_bias ? v[4] : Tensor(), kind);
        });
        EXPECT_TRUE(agree(dx, kRounded));
        EXPECT_TRUE(agree(db, kSum));
        run_on_both({&dy, &x},
                    [&](Context& ctx, const Views& v) { gelu_backward(ctx, v[0], {}, v[0], v[1], {}, kind); });
        EXPECT_TRUE(agree(dy, kRounded)) << "in place";
      }
}

// Where the exact GELU is nearly 0 or nearly x, and at the largest numbers.
TEST_F(OpsGpu, GeluOfLargeNumbers) {
  const std::vector<double> at{-3e38, -100, -13, -8, -5.5, -3, -0.75, -1e-3, 0, 1e-3, 0.75, 3, 8, 100, 3e38};
  const auto n = static_cast<int64_t>(at.size());
  Context ctx(Device::kGpu);
  Array x(kBF16, {n}), y(kBF16, {n}), dy(kBF16, {n}), dx(kBF16, {n});
  x.assign(at), dy.fill(1);
  const GpuCopy x_gpu(ctx, x), y_gpu(ctx, y), dy_gpu(ctx, dy), dx_gpu(ctx, dx);
  gelu_forward(ctx, y_gpu, x_gpu, {}, Gelu::kErf);
  gelu_backward(ctx, dx_gpu, {}, dy_gpu, x_gpu, {}, Gelu::kErf);
  y_gpu.download(y), dx_gpu.download(dx);
  for (size_t i = 0; i < at.size(); ++i) {
    const double v = x.values()[i], cdf = 0.5 * std::erfc(-v / std::sqrt(2.0));
    const double slope = cdf + v * std::exp(-0.5 * v * v) / std::sqrt(2 * M_PI);
    EXPECT_NEAR(y.values()[i], v * cdf, kRounded * std::abs(v * cdf) + 1e-30) << v;
    EXPECT_NEAR(dx.values()[i], slope, kRounded * std::abs(slope) + 1e-5) << v;
  }
}

TEST_F(OpsGpu, Embedding) {
  struct Sizes {
    int64_t B, T, V, C;
  };
  // The last two have tokens with thousands of rows, over many chunks, and one token alone.
  for (const auto& [B, T, V, C] : {Sizes{1, 1, 3, 8},
                                   {2, 65, 50, 24},
                                   {3, 1000, 257, 128},
                                   {2, 500, 5000, 768},
                                   {4, 2048, 3, 16},
                                   {1, 1000, 1, 8}})
    for (const bool positions : {false, true}) {
      SCOPED_TRACE(concat("B ", B, ", T ", T, ", V ", V, ", C ", C, ", positions ", positions));
      Twin ids(kI32, {B, T}, false), wte(kBF16, {V, C}), wpe(kBF16, {T + 3, C}), x(kBF16, {B, T, C});
      Twin dx(kBF16, {B, T, C}), dwte(kF32, {V, C}), dwpe(kF32, {T + 3, C});
      ids.assign(whole_numbers(B * T, V, 1));
      wte.fill_normal(2), wpe.fill_normal(3), dx.fill_normal(4), dwte.fill_normal(5), dwpe.fill_normal(6);
      run_on_both({&x, &ids, &wte, &wpe}, [&, first = int64_t{2}](Context& ctx, const Views& v) {
        embedding_forward(ctx, v[0], v[1], v[2], positions ? v[3] : Tensor(), first);
      });
      EXPECT_TRUE(agree(x, kRounded));
      run_on_both({&dwte, &dwpe, &dx, &ids}, [&, N = B * T, width = C](Context& ctx, const Views& v) {
        const Array space({embedding_backward_scratch(ctx, N, width)});
        if (!ctx.on_gpu()) return embedding_backward(ctx, v[0], positions ? v[1] : Tensor(), v[2], v[3], {});
        const GpuCopy scratch(ctx, space);
        embedding_backward(ctx, v[0], positions ? v[1] : Tensor(), v[2], v[3], scratch);
        scratch.download(space);
      });
      EXPECT_TRUE(agree(dwte, kSum));
      EXPECT_TRUE(agree(dwpe, kSum));
    }
}

TEST_F(OpsGpu, CrossEntropy) {
  struct Sizes {
    int64_t N, P, V;
  };
  for (const auto& [N, P, V] : {Sizes{1, 8, 1},
                                {65, 64, 61},
                                {9, 384, 257},
                                {5, 1031, 1031},
                                {3, 5000, 4999},
                                {700, 1032, 1030},
                                {40, 50304, 50257},
                                {300, 50304, 50257},
                                {2, 57351, 57351},
                                {2, 131072, 131000}})
    for (const float scale : {0.0f, 0.01f}) {
      SCOPED_TRACE(concat("N ", N, ", P ", P, ", V ", V, ", scale ", scale));
      Twin losses(kF32, {N}), correct(kF32, {N}), logits(kBF16, {N, P}), targets(kI32, {N}, false);
      logits.fill_normal(1, 3.0);
      std::vector<double> asked = whole_numbers(N, V, 2);
      for (size_t i = 1; i < asked.size(); i += 3) asked[i] = kIgnoredTarget;
      targets.assign(asked);
      run_on_both({&losses, &correct, &logits, &targets}, [&, vocabulary = V](Context& ctx, const Views& v) {
        cross_entropy(ctx, v[0], v[1], v[2], v[3], vocabulary, scale);
      });
      EXPECT_TRUE(agree(losses, 1e-5));
      EXPECT_TRUE(agree(correct, 0.0));
      EXPECT_TRUE(agree(logits, scale == 0.0f ? 0.0 : kRounded));
    }
}

// Unknown targets lie before the vocabulary, behind it and in the padding; rows between them are not harmed.
TEST_F(OpsGpu, CrossEntropyOfAnUnknownTargetIsNaN) {
  Context ctx(Device::kGpu);
  struct Sizes {
    int64_t N, P, V;
  };
  for (const auto& [N, P, V] : {Sizes{7, 64, 61}, {300, 50304, 50257}})
    for (const float scale : {0.0f, 0.25f}) {
      SCOPED_TRACE(concat("N ", N, ", P ", P, ", V ", V, ", scale ", scale));
      Array logits(kBF16, {N, P}), targets(kI32, {N}), losses({N}), correct({N});
      logits.fill_normal(1);
      std::vector<double> asked = whole_numbers(N, V, 2);
      const std::vector<double> unknown{-1, static_cast<double>(V), static_cast<double>(P - 1), 2e9};
      for (size_t i = 0; i < asked.size(); i += 2) asked[i] = unknown[i / 2 % unknown.size()];
      targets.assign(asked);
      const std::vector<double> before = logits.values();
      const GpuCopy l(ctx, losses), h(ctx, correct), z(ctx, logits), t(ctx, targets);
      cross_entropy(ctx, l, h, z, t, V, scale);
      l.download(losses), h.download(correct), z.download(logits);
      const std::vector<double> after = logits.values();
      for (int64_t i = 0; i < N; ++i) {
        ASSERT_EQ(std::isnan(losses.as<float>()[i]), i % 2 == 0) << i;
        const auto row = [&, P = P](int64_t c) { return static_cast<size_t>(i * P + c); };
        if (scale == 0.0f) {
          ASSERT_EQ(after[row(0)], before[row(0)]) << i;
        } else if (i % 2 == 0) {
          ASSERT_TRUE(std::isnan(after[row(0)]) && std::isnan(after[row(V - 1)])) << i;
        } else {
          double sum = 0;
          for (int64_t c = 0; c < P; ++c) sum += after[row(c)];
          ASSERT_NEAR(sum, 0, 2e-3) << i;  // the target's is its probability less one
          for (int64_t c = V; c < P; ++c) ASSERT_EQ(after[row(c)], 0) << i << ' ' << c;
        }
      }
    }
}

TEST_F(OpsGpu, AddLosses) {
  for (const int64_t n : {1, 1000, 70000}) {
    Twin sums(DType::kF64, {3}, false), losses(kF32, {n}), correct(kF32, {n}), targets(kI32, {n}, false);
    sums.assign({3, 4, 5});
    losses.fill_normal(1), correct.fill_normal(2);
    std::vector<double> kept = whole_numbers(n, 2, 3);
    for (double& target : kept) target = target == 0 ? kIgnoredTarget : target;
    targets.assign(kept);
    run_on_both({&sums, &losses, &correct, &targets}, [&, count = (n + 1) / 2](Context& ctx, const Views& v) {
      add_losses(ctx, v[0], v[1], v[2], v[3], count);
    });
    EXPECT_TRUE(agree(sums, 1e-12, 1.0)) << n;
  }
}

TEST_F(OpsGpu, NormAndAdamW) {
  for (const int64_t n : {1, 65, 1000, 300007})
    for (const float max_norm : {0.0f, 0.5f}) {
      SCOPED_TRACE(concat("n ", n, ", max_norm ", max_norm));
      Twin p(kF32, {n}), m(kF32, {n}), v(kF32, {n}), g(kF32, {n}), norm(kF32, {1}), copy(kBF16, {n});
      Twin sum(DType::kF64, {1}, false), factors(kF32, {kAdamWFactors});
      norm.assign({0});
      Twin decays(kU16, {(n + kDecayBlock - 1) / kDecayBlock}, false);
      p.fill_normal(1), m.fill_normal(2, 0.1), g.fill_normal(3), v.fill_normal(4, 0.1);
      std::vector<double> squares = v.device_.values();
      for (double& x : squares) x = x * x;
      v.assign(squares);
      decays.assign(whole_numbers(decays.device_.view().numel(), 2, 5));
      AdamW settings{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 3};
      settings.max_norm = max_norm;
      run_on_both({&p, &m, &v, &copy, &g, &decays, &norm, &sum, &factors}, [&](Context& ctx, const Views& t) {
        square_sum(ctx, t[7], t[4]);
        gradient_norm(ctx, t[6], t[7]);
        write_adamw_factors(ctx, t[8], settings);
        adamw(ctx, t[0], t[1], t[2], ctx.on_gpu() ? t[3] : Tensor(), t[4], t[5], t[6], settings,
              n == 1000 ? ConstTensor(t[8]) : ConstTensor());
      });
      EXPECT_TRUE(agree(norm, 1e-6));
      EXPECT_TRUE(agree(factors, 0.0));
      for (const Twin* twin : {&p, &m, &v}) EXPECT_TRUE(agree(*twin, 1e-6));
      const std::vector<double> copied = copy.device_.values();
      for (size_t i = 0; i < copied.size(); ++i)
        ASSERT_EQ(copied[i], static_cast<double>(from_bf16(to_bf16(p.device_.as<float>()[i])))) << i;
    }
}

// Integer sums: the same bits on both.
TEST_F(OpsGpu, HashBits) {
  for (const int64_t n : {2, 64, 1000, 300006}) {
    Array values({n}), want(kI32, {2}), got(kI32, {2});
    values.fill_normal(static_cast<uint64_t>(n));
    Context cpu, gpu(Device::kGpu);
    hash_bits(cpu, want, values);
    const GpuCopy on_gpu(gpu, values), hash(gpu, got);
    hash_bits(gpu, hash, on_gpu);
    hash.download(got);
    EXPECT_EQ(got.values(), want.values()) << n;
  }
}

TEST_F(OpsGpu, ANormThatIsNotFiniteStays) {
  Context ctx(Device::kGpu);
  Array norm({1}), sums(DType::kF64, {2});
  sums.assign({9, 16});
  const GpuCopy sums_gpu(ctx, sums);
  for (const double before : {0.0, 3.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    norm.fill(before);
    const GpuCopy norm_gpu(ctx, norm);
    gradient_norm(ctx, norm_gpu, sums_gpu);
    norm_gpu.download(norm);
    if (std::isfinite(before))
      EXPECT_EQ(norm.as<float>()[0], 5.0f);
    else
      EXPECT_FALSE(std::isfinite(norm.as<float>()[0]));
  }
}

TEST_F(OpsGpu, ANormThatIsNotFiniteChangesNothing) {
  Context ctx(Device::kGpu);
  Array p({100}), norm({1}), copy(kBF16, {100});
  p.fill_normal(1);
  norm.fill(NAN);
  const Array before = normal({100}, 1);
  const GpuCopy p_gpu(ctx, p), m(ctx, p), v(ctx, p), g(ctx, p), norm_gpu(ctx, norm), copy_gpu(ctx, copy);
  adamw(ctx, p_gpu, m, v, copy_gpu, g, {}, norm_gpu,
        {.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1});
  p_gpu.download(p), copy_gpu.download(copy);
  EXPECT_TRUE(p.same_bits(before));
  EXPECT_TRUE(copy.poisoned());
}

TEST_F(OpsGpu, Rotary) {
  for (const int64_t D : {2, 8, 64, 128})
    for (const int64_t T : {1, 65, 1000})
      for (const int direction : {1, -1}) {
        Twin qkv(kBF16, {2, T, 3, 5, D});
        qkv.fill_normal(1);
        run_on_both({&qkv},
                    [&](Context& ctx, const Views& v) { rotary(ctx, part_of(v[0], 1), 131000, 10000.0, direction); });
        EXPECT_TRUE(agree(qkv, kRounded)) << D << " " << T;
      }
}

TEST_F(OpsGpu, Cast) {
  Context ctx(Device::kGpu);
  for (const int64_t n : {1, 7, 1000}) {
    const Array wide = normal({n}, 1), narrow(kBF16, {n}), back({n});
    const GpuCopy w(ctx, wide), b(ctx, narrow), f(ctx, back);
    cast(ctx, b, w);
    cast(ctx, f, b);
    b.download(narrow), f.download(back);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(narrow.view().numel(), n);
      EXPECT_EQ(back.as<float>()[i], from_bf16(to_bf16(wide.as<float>()[i]))) << i;
    }
  }
}

TEST_F(OpsGpu, FillNormal) {
  for (const int64_t n : {1, 2, 511, 100001}) {
    SCOPED_TRACE(n);
    Twin x(kF32, {n}), y(kBF16, {n});
    run_on_both({&x}, [](Context& ctx, const Views& v) { fill_normal(ctx, v[0], 7, 3); });
    EXPECT_TRUE(agree(x, 1e-5));
    run_on_both({&y}, [](Context& ctx, const Views& v) { fill_normal(ctx, v[0], 7, 3); });
    EXPECT_TRUE(agree(y, 1.0 / 256));
  }
}

TEST_F(OpsGpu, WrongTypesAndDevicesAreNamed) {
  Context ctx(Device::kGpu);
  const Array x({8, 8}), narrow(kBF16, {8, 8});
  const GpuCopy wide_gpu(ctx, x), narrow_gpu(ctx, narrow);
  const Tensor wide = wide_gpu, good = narrow_gpu;
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, good, wide, good, {}); }, {"linear_forward: x ", "bf16"}));
  EXPECT_TRUE(fails_naming([&] { linear_forward(ctx, good, narrow, good, {}); }, {"linear_forward", "on cpu"}));
  EXPECT_TRUE(fails_naming([&] { gelu_forward(ctx, wide, wide, {}, Gelu::kErf); }, {"gelu_forward: x ", "bf16"}));
}

}  // namespace
}  // namespace scfa::test

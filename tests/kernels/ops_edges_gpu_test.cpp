// The GPU implementations of the ops around attention where nothing is to be done, or what they are given is not fit.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "kernels/adamw.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/linear/gelu.h"
#include "kernels/linear/linear.h"
#include "kernels/rotary.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr DType kBF16 = DType::kBF16, kI32 = DType::kI32;

class OpsEdgesGpu : public GpuTest {
 protected:
  Context& ctx() {
    if (!ctx_) ctx_ = std::make_unique<Context>(Device::kGpu);
    return *ctx_;
  }

 private:
  std::unique_ptr<Context> ctx_;
};

TEST_F(OpsEdgesGpu, EmptyInputsDoNothing) {
  const Array none(kBF16, {0, 8}), none3(kBF16, {0, 4, 8}), none4(kBF16, {0, 4, 2, 8}), nothing({0});
  const Array none_ids(kI32, {0, 4}), none_targets(kI32, {0}), narrow(kBF16, {0}), weight(kBF16, {8, 8}), dw({8, 8});
  const GpuCopy x(ctx(), none), x3(ctx(), none3), x4(ctx(), none4), f(ctx(), nothing), ids(ctx(), none_ids);
  const GpuCopy targets(ctx(), none_targets), b(ctx(), narrow), w(ctx(), weight), dw_gpu(ctx(), dw);
  linear_forward(ctx(), x, x, w, {});
  linear_gelu_forward(ctx(), x, x, x, w, {}, Gelu::kErf);
  linear_dgrad(ctx(), x, x, w);
  linear_gelu_dgrad(ctx(), x, {}, x, w, x, {}, Gelu::kErf);
  linear_wgrad(ctx(), dw_gpu, x, x);
  gelu_forward(ctx(), x, x, {}, Gelu::kErf);
  gelu_backward(ctx(), x, {}, x, x, {}, Gelu::kTanh);
  cast(ctx(), b, f);
  embedding_forward(ctx(), x3, ids, w, {}, 0);
  embedding_backward(ctx(), dw_gpu, {}, x3, ids, {});
  cross_entropy(ctx(), f, f, x, targets, 5, 1.0f);
  rotary(ctx(), x4, 0, 10000.0, 1);
  adamw(ctx(), f, f, f, b, f, {}, {},
        {.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f, .step = 1});
  ctx().synchronize();
  dw_gpu.download(dw);
  EXPECT_TRUE(dw.poisoned());  // nothing was added to it
}

TEST_F(OpsEdgesGpu, UnknownTokensAreNanAndEnterNoGradient) {
  const int64_t T = 70, V = 5, C = 24;
  Array ids(kI32, {1, T}), wte(kBF16, {V, C}), x(kBF16, {1, T, C}), dx(kBF16, {1, T, C}), dwte({V, C});
  const auto id_of = [&](int64_t t) -> int64_t { return t % 3 == 0 ? (t % 2 ? -1 : V) : t % V; };
  for (int64_t t = 0; t < T; ++t) ids.as<int32_t>()[t] = static_cast<int32_t>(id_of(t));
  wte.fill_normal(1), dx.fill_normal(2), dwte.fill_normal(3);
  std::vector<double> want = dwte.values();
  const std::vector<double> gradient = dx.values();
  const GpuCopy ids_gpu(ctx(), ids), wte_gpu(ctx(), wte), x_gpu(ctx(), x), dx_gpu(ctx(), dx), dwte_gpu(ctx(), dwte);
  embedding_forward(ctx(), x_gpu, ids_gpu, wte_gpu, {}, 0);
  const Array space({embedding_backward_scratch(ctx(), T, C)});
  const GpuCopy scratch(ctx(), space);
  embedding_backward(ctx(), dwte_gpu, {}, dx_gpu, ids_gpu, scratch);
  x_gpu.download(x), dwte_gpu.download(dwte), scratch.download(space);
  const std::vector<double> rows = x.values(), table = wte.values();
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < C; ++c) {
      const auto at = static_cast<size_t>(t * C + c);
      if (const int64_t id = id_of(t); id < 0 || id >= V) {
        ASSERT_TRUE(std::isnan(rows[at])) << t;
      } else {
        ASSERT_EQ(rows[at], table[static_cast<size_t>(id * C + c)]) << t;
        want[static_cast<size_t>(id * C + c)] += gradient[at];
      }
    }
  EXPECT_TRUE(close(dwte, want, 1e-5));
}

// In a row that stays in registers, in one that may lie in shared memory, and in one that is read twice; one NaN, and a
// whole pack of them at either end.
TEST_F(OpsEdgesGpu, NanLogitsAreNotSwallowed) {
  for (const int64_t V : {61, 50257, 60000})
    for (const int64_t count : {1, 8})
      for (const int64_t where : {int64_t{0}, V / 8 * 8 - 8}) {
        Array logits(kBF16, {2, 64 * ((V + 63) / 64)}), targets(kI32, {2}), losses({2}), correct({2});
        std::vector<double> values = logits.fill_normal(1).values();
        for (int64_t c = where; c < where + count; ++c) values[static_cast<size_t>(c)] = NAN;
        logits.assign(values);
        targets.fill(20);
        const GpuCopy l(ctx(), losses), h(ctx(), correct), z(ctx(), logits), t(ctx(), targets);
        cross_entropy(ctx(), l, h, z, t, V, 0.0f);
        l.download(losses);
        EXPECT_TRUE(std::isnan(losses.as<float>()[0])) << V << " " << count << " at " << where;
        EXPECT_TRUE(std::isfinite(losses.as<float>()[1])) << V;
      }
}

}  // namespace
}  // namespace scfa::test

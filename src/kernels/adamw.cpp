#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace scfa {

void gradient_norm(Context& ctx, Tensor norm, ConstTensor g) {
  require(g.data && g.contiguous(), "gradient_norm: g must be contiguous");
  require_tensor(norm, "gradient_norm", "norm", DType::kF32, {1});
  ctx.require_cpu("gradient_norm");
  cpu::gradient_norm(ctx, norm, g);
}

void adamw(Context& ctx, Tensor p, Tensor m, Tensor v, ConstTensor g, ConstTensor norm, const AdamW& settings) {
  constexpr const char* kOp = "adamw";
  const int64_t n = p.numel();
  require_tensor(p, kOp, "p", DType::kF32, {n});
  require_tensor(m, kOp, "m", DType::kF32, {n});
  require_tensor(v, kOp, "v", DType::kF32, {n});
  require_tensor(g, kOp, "g", DType::kF32, {n});
  if (settings.max_norm > 0) require_tensor(norm, kOp, "norm", DType::kF32, {1});
  require(settings.step >= 1, kOp, ": the first step is 1, not ", settings.step);
  ctx.require_cpu(kOp);
  cpu::adamw(ctx, p, m, v, g, norm, settings);
}

namespace cpu {

void gradient_norm(Context& /*ctx*/, Tensor norm, ConstTensor g) {
  constexpr int64_t kBlock = 1 << 16;
  const int64_t n = g.numel(), blocks = (n + kBlock - 1) / kBlock;
  const float* x = g.as<float>();
  static thread_local std::vector<double> partial;
  partial.assign(static_cast<size_t>(blocks), 0.0);
  double* sums = partial.data();
#pragma omp parallel for
  for (int64_t b = 0; b < blocks; ++b) {
    double sum = 0.0;
    const int64_t end = std::min(n, (b + 1) * kBlock);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = b * kBlock; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    sums[b] = sum;
  }
  double total = 0.0;
  for (int64_t b = 0; b < blocks; ++b) total += sums[b];
  norm.as<float>()[0] = static_cast<float>(std::sqrt(total));
}

void adamw(Context& /*ctx*/, Tensor p, Tensor m, Tensor v, ConstTensor g, ConstTensor norm, const AdamW& settings) {
  const int64_t n = p.numel();
  float *w = p.as<float>(), *m1 = m.as<float>(), *m2 = v.as<float>();
  const float* grad = g.as<float>();
  const double step = static_cast<double>(settings.step);
  const float b1 = settings.beta1, b2 = settings.beta2;
  const float step_size = static_cast<float>(settings.lr / (1.0 - std::pow(static_cast<double>(b1), step)));
  const float correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(static_cast<double>(b2), step)));
  const float keep = 1.0f - settings.lr * settings.weight_decay, eps = settings.eps;
  const float scale = settings.max_norm > 0 ? std::min(1.0f, settings.max_norm / (norm.as<float>()[0] + 1e-6f)) : 1.0f;
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) {
    const float d = grad[i] * scale;
    m1[i] = b1 * m1[i] + (1.0f - b1) * d;
    m2[i] = b2 * m2[i] + (1.0f - b2) * d * d;
    w[i] = w[i] * keep - step_size * m1[i] / (std::sqrt(m2[i]) * correction + eps);
  }
}

}  // namespace cpu
}  // namespace scfa

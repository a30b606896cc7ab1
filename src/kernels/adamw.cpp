#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace scfa {

void square_sum(Context& ctx, Tensor sum, ConstTensor g) {
  constexpr const char* kOp = "square_sum";
  require(g.data && g.contiguous(), kOp, ": g must be contiguous");
  require_tensor(g, kOp, "g", DType::kF32, {g.numel()});
  require_tensor(sum, kOp, "sum", DType::kF64, {1});
  ctx.require_here(kOp, {sum, g});
  const ProfileRange range(ctx, kOp, Category::kOptimizer);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::square_sum(ctx, sum, g);
  cpu::square_sum(ctx, sum, g);
}

void gradient_norm(Context& ctx, Tensor norm, ConstTensor square_sums) {
  constexpr const char* kOp = "gradient_norm";
  require_tensor(square_sums, kOp, "square_sums", DType::kF64, {square_sums.numel()});
  require_tensor(norm, kOp, "norm", DType::kF32, {1});
  ctx.require_here(kOp, {norm, square_sums});
  const ProfileRange range(ctx, kOp, Category::kOptimizer);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::gradient_norm(ctx, norm, square_sums);
  cpu::gradient_norm(ctx, norm, square_sums);
}

std::array<float, kAdamWFactors> adamw_factors(const AdamW& settings) {
  require(settings.step >= 1, "adamw: the first step is 1, not ", settings.step);
  const auto lost = [&](float beta) {
    return 1.0 - std::pow(static_cast<double>(beta), static_cast<double>(settings.step));
  };
  return {static_cast<float>(static_cast<double>(settings.lr) / lost(settings.beta1)),
          static_cast<float>(1.0 / std::sqrt(lost(settings.beta2))), 1.0f - settings.lr * settings.weight_decay};
}

void write_adamw_factors(Context& ctx, Tensor factors, const AdamW& settings) {
  constexpr const char* kOp = "write_adamw_factors";
  require_tensor(factors, kOp, "factors", DType::kF32, {kAdamWFactors});
  ctx.require_here(kOp, {factors});
  const ProfileRange range(ctx, kOp, Category::kOptimizer);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::write_adamw_factors(ctx, factors, settings);
  cpu::write_adamw_factors(ctx, factors, settings);
}

void adamw(Context& ctx, Tensor p, Tensor m, Tensor v, Tensor copy, ConstTensor g, ConstTensor decays, ConstTensor norm,
           const AdamW& settings, ConstTensor factors) {
  constexpr const char* kOp = "adamw";
  const int64_t n = p.numel();
  require_tensor(p, kOp, "p", DType::kF32, {n});
  require_tensor(m, kOp, "m", DType::kF32, {n});
  require_tensor(v, kOp, "v", DType::kF32, {n});
  require_tensor(g, kOp, "g", DType::kF32, {n});
  if (ctx.on_gpu())
    require_tensor(copy, kOp, "copy", DType::kBF16, {n});
  else
    require(!copy, kOp, ": copy must be empty on the CPU");
  if (decays) require_tensor(decays, kOp, "decays", DType::kU16, {(n + kDecayBlock - 1) / kDecayBlock});
  if (norm || settings.max_norm > 0) require_tensor(norm, kOp, "norm", DType::kF32, {1});
  if (factors) require_tensor(factors, kOp, "factors", DType::kF32, {kAdamWFactors});
  require(factors || settings.step >= 1, kOp, ": the first step is 1, not ", settings.step);
  ctx.require_here(kOp, {p, m, v, copy, g, decays, norm, factors});
  if (n == 0) return;
  const ProfileRange range(ctx, kOp, Category::kOptimizer);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::adamw(ctx, p, m, v, copy, g, decays, norm, settings, factors);
  cpu::adamw(ctx, p, m, v, copy, g, decays, norm, settings, factors);
}

namespace cpu {

void square_sum(Context& /*ctx*/, Tensor sum_out, ConstTensor g) {
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
  sum_out.as<double>()[0] = total;
}

void gradient_norm(Context& /*ctx*/, Tensor norm, ConstTensor square_sums) {
  if (!std::isfinite(norm.as<float>()[0])) return;
  double total = 0.0;
  for (int64_t i = 0; i < square_sums.numel(); ++i) total += square_sums.as<double>()[i];
  norm.as<float>()[0] = static_cast<float>(std::sqrt(total));
}

void write_adamw_factors(Context& /*ctx*/, Tensor factors, const AdamW& settings) {
  const auto values = adamw_factors(settings);
  std::copy(values.begin(), values.end(), factors.as<float>());
}

void adamw(Context& /*ctx*/, Tensor p, Tensor m, Tensor v, Tensor /*copy*/, ConstTensor g, ConstTensor decays,
           ConstTensor norm, const AdamW& settings, ConstTensor factors) {
  if (norm && !std::isfinite(norm.as<float>()[0])) return;
  const int64_t n = p.numel();
  float *w = p.as<float>(), *m1 = m.as<float>(), *m2 = v.as<float>();
  const float* grad = g.as<float>();
  const uint16_t* mask = decays ? decays.as<uint16_t>() : nullptr;
  std::array<float, kAdamWFactors> values{};
  if (factors)
    std::copy_n(factors.as<float>(), values.size(), values.begin());
  else
    values = adamw_factors(settings);
  const float step_size = values[0], correction = values[1], decayed = values[2];
  const float b1 = settings.beta1, b2 = settings.beta2, eps = settings.eps;
  const float scale = settings.max_norm > 0 ? std::min(1.0f, settings.max_norm / (norm.as<float>()[0] + 1e-6f)) : 1.0f;
#pragma omp parallel for
  for (int64_t block = 0; block < (n + kDecayBlock - 1) / kDecayBlock; ++block) {
    const bool decay = mask == nullptr || mask[block] != 0;
    const float keep = decay ? decayed : 1.0f;
    const int64_t end = std::min(n, (block + 1) * kDecayBlock);
#pragma omp simd
    for (int64_t i = block * kDecayBlock; i < end; ++i) {
      const float d = grad[i] * scale;
      m1[i] = b1 * m1[i] + (1.0f - b1) * d;
      m2[i] = b2 * m2[i] + (1.0f - b2) * d * d;
      w[i] = w[i] * keep - step_size * m1[i] / (std::sqrt(m2[i]) * correction + eps);
    }
  }
}

}  // namespace cpu
}  // namespace scfa

#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/vector_math.h"

namespace scfa {

void cross_entropy(Context& ctx, Tensor losses, Tensor correct, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale) {
  constexpr const char* kOp = "cross_entropy";
  require(logits.data && logits.ndim == 2 && logits.contiguous() && vocabulary > 0 && vocabulary <= logits.size(1), kOp,
          ": logits must be contiguous (N, P) with P >= ", vocabulary, ", not ", logits.describe());
  const int64_t N = logits.size(0);
  require_elements(losses, kOp, "losses", DType::kF32, N);
  require_elements(correct, kOp, "correct", DType::kF32, N);
  require_elements(targets, kOp, "targets", DType::kI32, N);
  require_activation(ctx, kOp, "logits", logits);
  ctx.require_here(kOp, {losses, correct, logits, targets});
  if (N == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::cross_entropy(ctx, losses, correct, logits, targets, vocabulary, gradient_scale);
  cpu::cross_entropy(ctx, losses, correct, logits, targets, vocabulary, gradient_scale);
}

void add_losses(Context& ctx, Tensor sums, ConstTensor losses, ConstTensor correct, ConstTensor targets, int64_t n) {
  constexpr const char* kOp = "add_losses";
  require_tensor(sums, kOp, "sums", DType::kF64, {3});
  require_elements(losses, kOp, "losses", DType::kF32, losses.numel());
  require_elements(correct, kOp, "correct", DType::kF32, losses.numel());
  require_elements(targets, kOp, "targets", DType::kI32, losses.numel());
  require(n >= 0 && n <= losses.numel(), kOp, ": ", n, " of ", losses.numel(), " losses");
  ctx.require_here(kOp, {sums, losses, correct, targets});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::add_losses(ctx, sums, losses, correct, targets, n);
  cpu::add_losses(ctx, sums, losses, correct, targets, n);
}

namespace cpu {

void add_losses(Context& /*ctx*/, Tensor sums, ConstTensor losses, ConstTensor correct, ConstTensor targets,
                int64_t n) {
  double loss = 0, hit = 0, counted = 0;
  for (int64_t i = 0; i < n; ++i) {
    loss += static_cast<double>(losses.as<float>()[i]);
    hit += static_cast<double>(correct.as<float>()[i]);
    counted += targets.as<int32_t>()[i] == kIgnoredTarget ? 0.0 : 1.0;
  }
  sums.as<double>()[0] += loss;
  sums.as<double>()[1] += hit;
  sums.as<double>()[2] += counted;
}

void cross_entropy(Context& /*ctx*/, Tensor losses, Tensor correct, Tensor logits, ConstTensor targets,
                   int64_t vocabulary, float gradient_scale) {
  const int64_t N = logits.size(0), P = logits.size(1), V = vocabulary;
  const int32_t* target = targets.as<int32_t>();
  for (int64_t i = 0; i < N; ++i)
    require(target[i] == kIgnoredTarget || (target[i] >= 0 && target[i] < V), "cross_entropy: target ", target[i],
            " is outside the vocabulary of ", V);
  float *loss = losses.as<float>(), *hit = correct.as<float>(), *all = logits.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    float* row = all + i * P;
    if (target[i] == kIgnoredTarget) {
      loss[i] = hit[i] = 0.0f;
      if (gradient_scale != 0.0f) std::fill(row, row + P, 0.0f);
      continue;
    }
    float top = row[0], sum = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t c = 0; c < V; ++c) top = row[c] > top ? row[c] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < V; ++c) sum += vexp(row[c] - top);
    const float log_sum = top + std::log(sum);
    loss[i] = log_sum - row[target[i]];
    hit[i] = row[target[i]] == top ? 1.0f : 0.0f;
    if (gradient_scale == 0.0f) continue;
    const float inverse = gradient_scale / sum;
#pragma omp simd
    for (int64_t c = 0; c < V; ++c) row[c] = vexp(row[c] - top) * inverse;
    row[target[i]] -= gradient_scale;
    for (int64_t c = V; c < P; ++c) row[c] = 0.0f;
  }
}

}  // namespace cpu
}  // namespace scfa

#include "kernels/cross_entropy.h"

#include <cmath>

#include "kernels/vector_math.h"

namespace scfa {

void cross_entropy(Context& ctx, Tensor losses, Tensor hits, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale) {
  constexpr const char* kOp = "cross_entropy";
  require(logits.data && logits.ndim == 2 && logits.contiguous() && vocabulary > 0 && vocabulary <= logits.size(1), kOp,
          ": logits must be contiguous (N, P) with P >= ", vocabulary, ", not ", logits.describe());
  const int64_t N = logits.size(0);
  require_elements(losses, kOp, "losses", DType::kF32, N);
  require_elements(hits, kOp, "hits", DType::kF32, N);
  require_elements(targets, kOp, "targets", DType::kI32, N);
  ctx.require_cpu(kOp);
  cpu::cross_entropy(ctx, losses, hits, logits, targets, vocabulary, gradient_scale);
}

namespace cpu {

void cross_entropy(Context& /*ctx*/, Tensor losses, Tensor hits, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale) {
  const int64_t N = logits.size(0), P = logits.size(1), V = vocabulary;
  const int32_t* target = targets.as<int32_t>();
  for (int64_t i = 0; i < N; ++i)
    require(target[i] >= 0 && target[i] < V, "cross_entropy: target ", target[i], " is outside the vocabulary of ", V);
  float *loss = losses.as<float>(), *hit = hits.as<float>(), *all = logits.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    float* row = all + i * P;
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

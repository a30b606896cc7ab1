// Softmax cross-entropy of a chunk of tokens; the gradient replaces the logits, so that logits never exist twice.
#pragma once
#include "core/context.h"

namespace scfa {

// For row i: losses[i] = logsumexp(logits[i, :vocabulary]) - logits[i, targets[i]], in nats.
//   losses   out (N) f32          hits  out (N) f32: 1 where the largest logit is the target's, else 0
//   logits   in (N, P) f32 on CPU, P >= vocabulary; columns from vocabulary on are padding and never enter
//   targets  in (N) i32
//   gradient_scale  0: logits are left alone. Otherwise logits become gradient_scale * (softmax - onehot), padding 0.
// Deterministic. Throws Error if a target is outside the vocabulary (CPU).
void cross_entropy(Context& ctx, Tensor losses, Tensor hits, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale);

namespace cpu {
decltype(scfa::cross_entropy) cross_entropy;
}
}  // namespace scfa

// Softmax cross-entropy of a chunk of tokens; the gradient replaces the logits, so that logits never exist twice.
#pragma once
#include "core/context.h"
#include "core/ignored_target.h"

namespace scfa {

// For row i: losses[i] = logsumexp(logits[i, :vocabulary]) - logits[i, targets[i]], in nats.
//   losses   out (N) f32          correct  out (N) f32: 1 where the largest logit is the target's, else 0
//   logits   in (N, P) f32 on CPU, bf16 on GPU, P >= vocabulary; columns from vocabulary on are padding and never enter
//   targets  in (N) i32
//   gradient_scale  0: logits are left alone. Otherwise logits become gradient_scale * (softmax - onehot), padding 0.
// Where a target is kIgnoredTarget, losses, correct and the gradient are 0. Where it is outside [0, vocabulary) and not
// kIgnoredTarget, the CPU throws Error before anything is written; on the GPU, where a kernel cannot throw, the loss
// and the gradient of the row are NaN and correct is 0. Deterministic.
void cross_entropy(Context& ctx, Tensor losses, Tensor correct, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale);

// Of the first n tokens: sums[0] += losses, sums[1] += correct, sums[2] += how many targets are not kIgnoredTarget; in
// double and a fixed order.
//   sums  out (3) f64, added to      losses, correct  in (N) f32      targets  in (N) i32
void add_losses(Context& ctx, Tensor sums, ConstTensor losses, ConstTensor correct, ConstTensor targets, int64_t n);

namespace cpu {
decltype(scfa::cross_entropy) cross_entropy;
decltype(scfa::add_losses) add_losses;
}  // namespace cpu
namespace gpu {
decltype(scfa::cross_entropy) cross_entropy;
decltype(scfa::add_losses) add_losses;
}  // namespace gpu
}  // namespace scfa

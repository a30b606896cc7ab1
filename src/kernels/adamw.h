// AdamW with the clipping of the global gradient norm folded in.        Loshchilov & Hutter 2017, arXiv:1711.05101
#pragma once
#include "core/context.h"

namespace scfa {

// sum[0] = sum g^2, in double over fixed blocks, so the result does not depend on the thread count.
//   sum  out (1) f64      g  in (n) f32
void square_sum(Context& ctx, Tensor sum, ConstTensor g);

// norm[0] = sqrt(sum of square_sums): those of the parts of the gradients, in their order.
//   norm  out (1) f32      square_sums  in (n) f64
void gradient_norm(Context& ctx, Tensor norm, ConstTensor square_sums);

inline constexpr int64_t kDecayBlock = 64;  // parameters that share an entry of a decay mask

struct AdamW {
  float lr, beta1, beta2, eps, weight_decay;
  int64_t step;        // 1 for the first update
  float max_norm = 0;  // gradients are scaled by min(1, max_norm / (norm + 1e-6)); 0 leaves them alone
};

// One update of n parameters, decoupled weight decay first, as PyTorch does it.
//   p, m, v  in/out (n) f32
//   copy     out (n) bf16: the parameters rounded, for products on the GPU; empty on the CPU
//   g        in  (n) f32
//   decays   in  (ceil(n / kDecayBlock)) u16: which blocks of parameters decay (1) or not (0); empty: all do
//   norm     in  (1) f32, from gradient_norm. Where it is not finite nothing is changed, so that a step gone wrong does
//            no harm. May be empty if max_norm is 0.
void adamw(Context& ctx, Tensor p, Tensor m, Tensor v, Tensor copy, ConstTensor g, ConstTensor decays, ConstTensor norm,
           const AdamW& settings);

namespace cpu {
decltype(scfa::square_sum) square_sum;
decltype(scfa::gradient_norm) gradient_norm;
decltype(scfa::adamw) adamw;
}  // namespace cpu
namespace gpu {
decltype(scfa::square_sum) square_sum;
decltype(scfa::gradient_norm) gradient_norm;
decltype(scfa::adamw) adamw;
}  // namespace gpu
}  // namespace scfa

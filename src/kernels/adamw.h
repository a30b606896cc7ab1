// AdamW with the clipping of the global gradient norm folded in.        Loshchilov & Hutter 2017, arXiv:1711.05101
#pragma once
#include <array>

#include "core/context.h"

namespace scfa {

// sum[0] = sum g^2, in double over fixed blocks, so the result does not depend on the thread count.
//   sum  out (1) f64      g  in (n) f32
void square_sum(Context& ctx, Tensor sum, ConstTensor g);

// norm[0] = sqrt(sum of square_sums), added in order; square_sums has one entry per part of the gradients (square_sum).
// A norm that is not finite is kept, so that steps that were launched before the host has read it change nothing
// either.
//   norm  in/out (1) f32      square_sums  in (n) f64
void gradient_norm(Context& ctx, Tensor norm, ConstTensor square_sums);

inline constexpr int64_t kDecayBlock = 64;  // parameters that share an entry of a decay mask

struct AdamW {
  float lr, beta1, beta2, eps, weight_decay;
  int64_t step;        // 1 for the first update
  float max_norm = 0;  // gradients are scaled by min(1, max_norm / (norm + 1e-6)); 0 leaves them alone
};

// What of AdamW changes from step to step: lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step), 1 - lr * weight_decay.
inline constexpr int64_t kAdamWFactors = 3;
std::array<float, kAdamWFactors> adamw_factors(const AdamW& settings);

// factors = adamw_factors(settings), written by a kernel on the GPU.
//   factors  out (kAdamWFactors) f32
void write_adamw_factors(Context& ctx, Tensor factors, const AdamW& settings);

// One update of n parameters, decoupled weight decay first, as PyTorch does it.
//   p, m, v  in/out (n) f32
//   copy     out (n) bf16: the parameters rounded, for GEMMs on the GPU; empty on the CPU
//   g        in  (n) f32
//   decays   in  (ceil(n / kDecayBlock)) u16: which blocks of parameters decay (1) or not (0); empty: all do
//   norm     in  (1) f32, from gradient_norm. Where it is not finite nothing is changed, so that a step gone wrong does
//            no harm. May be empty if max_norm is 0.
//   factors  in  (kAdamWFactors) f32: instead of those of settings.lr and settings.step, so that a launch captured in a
//            CUDA graph can be launched again for another step; empty: those of settings
void adamw(Context& ctx, Tensor p, Tensor m, Tensor v, Tensor copy, ConstTensor g, ConstTensor decays, ConstTensor norm,
           const AdamW& settings, ConstTensor factors = {});

namespace cpu {
decltype(scfa::square_sum) square_sum;
decltype(scfa::gradient_norm) gradient_norm;
decltype(scfa::write_adamw_factors) write_adamw_factors;
decltype(scfa::adamw) adamw;
}  // namespace cpu
namespace gpu {
decltype(scfa::square_sum) square_sum;
decltype(scfa::gradient_norm) gradient_norm;
decltype(scfa::write_adamw_factors) write_adamw_factors;
decltype(scfa::adamw) adamw;
}  // namespace gpu
}  // namespace scfa

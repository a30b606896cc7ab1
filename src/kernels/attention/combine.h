// Attention over several relations from the results of each, as FlashAttention combines splits of the keys
// (Dao et al. 2022, arXiv:2205.14135, section 3.1).
// f32 on the CPU, bf16 with f32 arithmetic on the GPU, where D must be a multiple of 8 up to 128 and rows aligned to 16
// bytes. Deterministic.
#pragma once
#include "core/context.h"

namespace scfa {

// What attention over the keys of both would have given: with weights 2^lse, out becomes the weighted mean of out and
// partial_out, and lse the logarithm of the sum of the weights. A row with lse = +inf saw no key and has weight zero;
// where neither saw any, out is zero and lse = +inf.
//   out          in, out  (B, T, H, D), D contiguous, other strides free      lse          in, out  (B, H, T) f32, log2
//   partial_out  in       (B, T, H, D), likewise                              partial_lse  in       (B, H, T) f32, log2
void combine_partial_results(Context& ctx, Tensor out, Tensor lse, ConstTensor partial_out, ConstTensor partial_lse);

// to += from, rounded once.
//   to, from  (B, T, H, D), D contiguous, other strides free
void add_gradient(Context& ctx, Tensor to, ConstTensor from);

namespace cpu {
decltype(scfa::combine_partial_results) combine_partial_results;
decltype(scfa::add_gradient) add_gradient;
}  // namespace cpu
namespace gpu {
decltype(scfa::combine_partial_results) combine_partial_results;
decltype(scfa::add_gradient) add_gradient;
}  // namespace gpu
}  // namespace scfa

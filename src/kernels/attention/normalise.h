// Keys that are the queries, L2-normalised per head (shared_qk).        arXiv:2306.01160, section 3.3
// f32 on the CPU, bf16 on the GPU, where D must be a multiple of 8 up to 128 and rows aligned to 16 bytes.
// Deterministic.
#pragma once
#include "core/context.h"

namespace scfa {

// k = q / max(|q|, 1e-12) over D.
//   k  out (B, T, H, D) contiguous      inverse_norm  out (B, T, H) f32, kept for backward
//   q  in  (B, T, H, D), D contiguous, other strides free
void normalise_keys(Context& ctx, Tensor k, Tensor inverse_norm, ConstTensor q);

// dq += (dk - k (k . dk)) * inverse_norm.
//   dq  out (B, T, H, D), D contiguous, added to      dk, k  in (B, T, H, D) contiguous
// q and k may have been rotated by their positions (rotary) in between: rotation commutes with normalising.
void normalise_keys_backward(Context& ctx, Tensor dq, ConstTensor dk, ConstTensor k, ConstTensor inverse_norm);

namespace cpu {
decltype(scfa::normalise_keys) normalise_keys;
decltype(scfa::normalise_keys_backward) normalise_keys_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::normalise_keys) normalise_keys;
decltype(scfa::normalise_keys_backward) normalise_keys_backward;
// The same, skipped where *only_if, in device memory, is zero; null: never skipped.
void normalise_keys_backward_if(Context& ctx, const Tensor& dq, const ConstTensor& dk, const ConstTensor& k,
                                const ConstTensor& inverse_norm, const int* only_if);
}  // namespace gpu
}  // namespace scfa

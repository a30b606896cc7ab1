// Token embedding plus, where positions are learned, position embedding.
#pragma once
#include "core/context.h"

namespace scfa {

// x[b, t] = wte[ids[b, t]] + wpe[first_position + t]
//   x    out (B, T, C)  f32 on CPU, bf16 on GPU      ids  in (B, T) i32      wte  in (V, C)      wpe  in (S, C) or
//   empty
// Throws Error if the positions do not fit. Where an id is outside [0, V), the CPU throws Error before anything is
// written; the GPU, which cannot, makes the row NaN.
void embedding_forward(Context& ctx, Tensor x, ConstTensor ids, ConstTensor wte, ConstTensor wpe,
                       int64_t first_position);

//   dwte  out (V, C) f32, added to      dwpe  out (S, C) f32, added to, or empty
//   dx    in  (B, T, C)                 ids   in (B, T) i32
//   scratch f32, at least embedding_backward_scratch(ctx, B * T, C) elements, contents undefined; empty if that is 0
// Deterministic: the order of every sum is fixed. Ids were checked by forward; the GPU adds none outside [0, V) to
// dwte.
void embedding_backward(Context& ctx, Tensor dwte, Tensor dwpe, ConstTensor dx, ConstTensor ids, Tensor scratch);

int64_t embedding_backward_scratch(const Context& ctx, int64_t N, int64_t C);

namespace cpu {
decltype(scfa::embedding_forward) embedding_forward;
decltype(scfa::embedding_backward) embedding_backward;
}  // namespace cpu
namespace gpu {
decltype(scfa::embedding_forward) embedding_forward;
decltype(scfa::embedding_backward) embedding_backward;
decltype(scfa::embedding_backward_scratch) embedding_backward_scratch;
}  // namespace gpu
}  // namespace scfa

// Token embedding plus, where positions are learned, position embedding.
#pragma once
#include "core/context.h"

namespace scfa {

// x[b, t] = wte[ids[b, t]] + wpe[first_position + t]
//   x    out (B, T, C)  f32 on CPU      ids  in (B, T) i32      wte  in (V, C)      wpe  in (S, C) or empty
// Throws Error if an id is outside [0, V) (CPU) or the positions do not fit.
void embedding_forward(Context& ctx, Tensor x, ConstTensor ids, ConstTensor wte, ConstTensor wpe,
                       int64_t first_position);

//   dwte  out (V, C) f32, added to      dwpe  out (S, C) f32, added to, or empty
//   dx    in  (B, T, C)                 ids   in (B, T) i32
// Deterministic: the order of every sum is fixed.
void embedding_backward(Context& ctx, Tensor dwte, Tensor dwpe, ConstTensor dx, ConstTensor ids);

namespace cpu {
decltype(scfa::embedding_forward) embedding_forward;
decltype(scfa::embedding_backward) embedding_backward;
}  // namespace cpu
}  // namespace scfa

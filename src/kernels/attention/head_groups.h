// Gradients of keys and values that several query heads read (grouped-query attention).
//                                                                          Ainslie et al. 2023, arXiv:2305.13245
#pragma once
#include "core/context.h"

namespace scfa {

// to[head] = sum of the H / H_kv consecutive heads of `from` that read it, in f32 and in their order, rounded once.
//   to    out  (B, T, H_kv, D)      from  in  (B, T, H, D), H a multiple of H_kv; D contiguous, other strides free
// f32 on the CPU; bf16 on the GPU, where D must be a multiple of 8 up to 128 and rows aligned to 16 bytes.
// Deterministic.
void sum_head_groups(Context& ctx, Tensor to, ConstTensor from);

namespace cpu {
decltype(scfa::sum_head_groups) sum_head_groups;
}
namespace gpu {
decltype(scfa::sum_head_groups) sum_head_groups;
}
}  // namespace scfa

// Causal softmax attention over segments: one forward and one backward for every pattern.
// FlashAttention (Dao et al. 2022, arXiv:2205.14135) on index lists (Pagliardini et al. 2023, arXiv:2306.01160).
#pragma once
#include <span>
#include <string>

#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa {

// A relation is one Segments: in it, query i sees keys [begin_key[i], end_key[i]) of its segment (begin_key is 0
// without ranges). out = sum_r sum_j e^(scale * q . k_j) v_j / sum_r sum_j e^(scale * q . k_j) over the keys j seen in
// each relation r, so a key counts once per such relation. With one relation: out = softmax(scale * q . k) v.
//   out      out (B, T, H, D)  zero for a query that sees no key, dropped ones included
//   lse      out (B, H, T) f32, in token order: log2 sum exp2(scale * log2(e) * q . k); +inf where no key is seen
//   q        in  (B, T, H, D)  f32 on CPU, bf16 on GPU; D contiguous, other strides free: it may be a view of
//                              the output of the fused projection to queries, keys and values
//   k, v     in  (B, T, H_kv, D)  likewise. H_kv divides H: query head h reads head h / (H / H_kv), as grouped-query
//                              attention does (Ainslie et al. 2023, arXiv:2305.13245); segments are of query heads
//   relations  one or more Segments, built (build_segments), of the same B, H and T
//   scratch    f32, at least attention_scratch(ctx, relations, D, H_kv) elements, contents undefined
// GPU: D a multiple of 8 up to 128, tuned for 64 and 128; rows aligned to 16 bytes; backward: T <= 8,388,480.
// Throws Error naming the argument if shapes, dtypes, strides or devices do not fit. Deterministic.
// Time and memory traffic grow with the number of visible (query, key) pairs, not with T^2. Relations are computed one
// after another; on the GPU, out is rounded to bf16 after each.
void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       std::span<const Segments> relations, float scale, Tensor scratch);

// Gradients; dq, dk and dv are overwritten. They are zero for rows in no segment and for keys that no query sees. Each
// relation adds its part; on the GPU the sum is rounded to bf16 after each relation. Where H_kv < H, dk and dv are
// first computed for every query head (on the GPU in bf16), and then summed over the heads of a group in f32.
//   dq       out (B, T, H, D), strides free      dout, out, lse, q, k, v  in, as in forward
//   dk, dv   out (B, T, H_kv, D), likewise
//   inverse_norm  in (B, T, H) f32, or empty. Given where the keys are the L2-normalised queries (normalise_keys). dq
//                 then includes the gradient through the keys, (dk - k (k . dk)) * inverse_norm, and dk is undefined on
//                 return. k and dk must be contiguous, and H_kv = H. Correct for any segments; fastest on Hopper where
//                 every row has the same segment as query and as key.
void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, std::span<const Segments> relations,
                        float scale, Tensor scratch, ConstTensor inverse_norm = {});

// In f32 elements; does not decrease with B. kv_heads: H_kv, or 0 for H.
int64_t attention_scratch(const Context& ctx, std::span<const Segments> relations, int64_t D, int64_t kv_heads = 0);

// On a GPU, whether to use the portable kernels (sm_80, mma.sync) even where the Hopper kernels could run. Initially:
// whether the environment has SCFA_ATTENTION=portable.
void use_portable_attention(bool on);
bool uses_portable_attention();

// Which kernels attention runs on here, and why, in words.
std::string describe_attention(const Context& ctx);

// One relation. dk and dv are (B, T, H, D), of every query head. Backward takes lse and out over all relations, so that
// exp2(score - lse) is a relation's part of the whole softmax, and its gradients are one term of their sum.
//   accumulate  forward: out and lse hold the results of other relations and become those of all (combine.h);
//               backward: dq, dk and dv are added to, and inverse_norm must be empty
using AttentionForward = void(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                              const Segments& segments, float scale, Tensor scratch, bool accumulate);
using AttentionBackward = void(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q,
                               ConstTensor k, ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments,
                               float scale, Tensor scratch, ConstTensor inverse_norm, bool accumulate);
using AttentionScratch = int64_t(const Context& ctx, const Segments& segments, int64_t D);
namespace cpu {
AttentionForward attention_forward;
AttentionBackward attention_backward;
AttentionScratch attention_scratch;
}  // namespace cpu
namespace gpu {
AttentionForward attention_forward;
AttentionBackward attention_backward;
AttentionScratch attention_scratch;
decltype(scfa::describe_attention) describe_attention;
}  // namespace gpu
}  // namespace scfa

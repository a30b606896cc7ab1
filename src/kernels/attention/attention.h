// Causal softmax attention over segments: one forward and one backward for every pattern.
// FlashAttention (Dao et al. 2022, arXiv:2205.14135) on index lists (Pagliardini et al. 2023, arXiv:2306.01160).
#pragma once
#include <string>

#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa {

// Query i sees the first end_key[i] keys of its segment, with a window from begin_key[i] on:
// p = softmax(scale * q . k) over them, out = p v.
//   out      out (B, T, H, D)  zero for a query that sees no key, dropped ones included
//   lse      out (B, H, T) f32, in token order: log2 sum exp2(scale * log2(e) * q . k); +inf where no key is seen
//   q, k, v  in  (B, T, H, D)  f32 on CPU, bf16 on GPU; D contiguous, other strides free: they can be read where the
//                              product that made them left them
//   scratch  f32 (attention_scratch(ctx, segments, D)), contents undefined
// GPU: D a multiple of 8 up to 128, tuned for 64 and 128; rows aligned to 16 bytes.
// Deterministic. Time and memory traffic grow with the sum over segments of queries times keys seen, not with T^2.
void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch);

// Gradients, overwritten: zero for rows in no segment and for keys that no query sees.
//   dq, dk, dv    out (B, T, H, D), strides free      dout, out, lse, q, k, v  in, as in forward
//   inverse_norm  in (B, T, H) f32, or empty. Given where keys are the queries of the same tokens divided by their
//   norms (normalise_keys): dq is then the whole derivative, (dk - k (k . dk)) * inverse_norm included, and what dk
//   holds afterwards is undefined; k and dk must be contiguous. Any segments will do; on Hopper it is fastest where a
//   row's query and key are in the same one.
void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm = {});

// In elements. Not less for more sequences.
int64_t attention_scratch(const Context& ctx, const Segments& segments, int64_t D);

// On a GPU, whether to keep to the kernels that run on all of them where faster ones could run. At first: whether the
// environment has SCFA_ATTENTION=portable.
void use_portable_attention(bool on);
bool uses_portable_attention();

// Which kernels attention runs on here, and why, in words.
std::string describe_attention(const Context& ctx);

namespace cpu {
decltype(scfa::attention_forward) attention_forward;
decltype(scfa::attention_backward) attention_backward;
decltype(scfa::attention_scratch) attention_scratch;
}  // namespace cpu
namespace gpu {
decltype(scfa::attention_forward) attention_forward;
decltype(scfa::attention_backward) attention_backward;
decltype(scfa::attention_scratch) attention_scratch;
decltype(scfa::describe_attention) describe_attention;
}  // namespace gpu
}  // namespace scfa

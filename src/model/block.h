// One transformer block (pre-norm, as GPT-2): free functions over structs of views. Backward lists forward's calls in
// reverse; parameter gradients accumulate, activation gradients overwrite, the residual stream's gradient accumulates.
#pragma once
#include <functional>

#include "model/activations.h"
#include "model/params.h"

namespace scfa {

// What attention draws its random numbers from, and segments given from outside instead of drawn.
struct AttentionDraw {
  uint64_t seed = 0;
  RandomStep step;
  ConstTensor samples;  // (B) i32
  int64_t first_position = 0;
  bool counts_loads = false;         // of buckets, where a bias is learned by them
  ConstTensor q_segment, k_segment;  // (B, H, T) u16 of one relation, or empty: the patterns choose
};

// x: the residual stream (B, T, C) entering; skip: the previous block's branch, to be added to it first, or empty.
// Leaves the sum in a.residual_mid and this block's last branch in shared.branch.
// fp8: of the block, its weights quantised; null: no GEMM is in fp8.
// attend: called in place of attention, after a.segments are built; must fill a.attention. Empty: attention over them.
void block_forward(Context& ctx, const GptConfig& config, int64_t layer, const BlockParams& p, BlockActivations& a,
                   Activations& shared, ConstTensor x, ConstTensor skip, const AttentionDraw& draw,
                   const BlockFp8* fp8 = nullptr, const std::function<void()>& attend = {});

// Computes again, from what forward has kept of the block, what it has not; the same bits. draw, fp8: as in forward.
void block_recompute(Context& ctx, const GptConfig& config, int64_t layer, const BlockParams& p, BlockActivations& a,
                     Activations& shared, const AttentionDraw& draw, const BlockFp8* fp8, Recompute recompute);

// shared.dresidual: on entry the gradient of the residual stream after the block, on return of the stream before it.
// The gradient of a bias that is added to the stream is the sum of dresidual over all tokens, which layernorm_backward
// computes. So d.mlp_proj_bias is complete on entry, and this block adds the gradient of the previous block's
// mlp_proj_bias to dskip_bias (empty: there is none). before_attention is called right before the backward pass of
// attention is launched.
void block_backward(Context& ctx, const GptConfig& config, const BlockParams& p, const BlockParams& d,
                    Tensor dskip_bias, BlockActivations& a, Activations& shared, const BlockFp8* fp8,
                    const std::function<void()>& before_attention);

// The parts of block_forward around attention, for callers that bring their own (generation with a cache).
// Everything up to the rows that attention reads, and the segment of each.
void block_before_attention(Context& ctx, const GptConfig& config, int64_t layer, const BlockParams& p,
                            BlockActivations& a, const Activations& shared, ConstTensor x, ConstTensor skip,
                            const AttentionDraw& draw, const BlockFp8* fp8 = nullptr);
// From a.attention to the block's last branch.
void block_after_attention(Context& ctx, const GptConfig& config, const BlockParams& p, BlockActivations& a,
                           Activations& shared, const BlockFp8* fp8 = nullptr);

}  // namespace scfa

#include "model/block.h"

#include "kernels/attention/attention.h"
#include "kernels/attention/normalise.h"
#include "kernels/layernorm.h"
#include "kernels/linear/fp8.h"
#include "kernels/linear/linear.h"
#include "kernels/rotary.h"

namespace scfa {

namespace {

Gelu gelu_kind(const GptConfig& c) {
  return c.gelu == "erf" ? Gelu::kErf : Gelu::kTanh;
}

// Where keys are the normalised queries, makes them in the same pass over the queries.
void choose_segments(Context& ctx, const GptConfig& c, int64_t layer, BlockActivations& a, const Activations& shared,
                     const Heads& heads, const AttentionDraw& draw) {
  if (draw.q_segment) {
    require(a.segments.relations.size() == 1, "forward: segments are given for one relation, and layer ", layer,
            " has ", a.segments.relations.size());
    if (c.shared_qk) normalise_keys(ctx, heads.k, a.inverse_norm, heads.q);
    if (a.segments.filled_before) return;
    ctx.copy(a.segments.relations[0].q_segment, draw.q_segment);
    ctx.copy(a.segments.relations[0].k_segment, draw.k_segment);
    return;
  }
  const PatternInput input{.q = heads.q,
                           .k = c.shared_qk ? Tensor() : heads.k,
                           .projections = {},
                           .samples = draw.samples,
                           .seed = draw.seed,
                           .step = draw.step,
                           .layer = static_cast<uint32_t>(layer),
                           .first_position = draw.first_position,
                           .scratch = shared.attention_scratch};
  if (c.shared_qk)
    a.segments.assign_and_normalise_keys(ctx, heads.k, a.inverse_norm, input);
  else
    a.segments.assign(ctx, input);
}

// A GEMM's operand: the scaled tensor where there is one.
GemmOperand operand_of(const ScaledTensor& scaled, const Tensor& own) {
  return scaled ? GemmOperand(scaled) : GemmOperand(own);
}

const BlockFp8& or_none(const BlockFp8* fp8) {
  static const BlockFp8 none;
  return fp8 != nullptr ? *fp8 : none;
}

// From a.attention to the output of GELU.
void attention_to_gelu(Context& ctx, const GptConfig& c, const BlockParams& p, BlockActivations& a, Activations& shared,
                       const BlockFp8& fp8) {
  linear_forward(ctx, shared.branch, a.attention, p.attn_proj_weight, p.attn_proj_bias);
  layernorm_forward(ctx, a.ln_2, a.residual_mid, a.ln_2_mean, a.ln_2_rstd, a.residual_in, shared.branch, p.ln_2_weight,
                    p.ln_2_bias, static_cast<float>(c.norm_eps), fp8.ln_2);
  linear_gelu_forward(ctx, a.gelu, a.fc, operand_of(fp8.ln_2, a.ln_2), operand_of(fp8.fc_weight, p.fc_weight),
                      p.fc_bias, gelu_kind(c), fp8.gelu);
}

}  // namespace

void block_before_attention(Context& ctx, const GptConfig& c, int64_t layer, const BlockParams& p, BlockActivations& a,
                            const Activations& shared, ConstTensor x, ConstTensor skip, const AttentionDraw& draw,
                            const BlockFp8* in_fp8) {
  const BlockFp8& fp8 = or_none(in_fp8);
  layernorm_forward(ctx, a.ln_1, a.residual_in, a.ln_1_mean, a.ln_1_rstd, x, skip, p.ln_1_weight, p.ln_1_bias,
                    static_cast<float>(c.norm_eps), fp8.ln_1);
  const int64_t B = a.ln_1.size(0), T = a.ln_1.size(1);
  linear_forward(ctx, a.qkv.reshape({B, T, c.qkv_width()}), operand_of(fp8.ln_1, a.ln_1),
                 operand_of(fp8.attn_weight, p.attn_weight), p.attn_bias);
  const Heads heads = heads_of(c, a.qkv, a.shared_keys);
  // Rows are hashed as the GEMM left them, before rotation: positions must not decide who meets whom.
  choose_segments(ctx, c, layer, a, shared, heads, draw);
  if (c.rotary())
    for (const Tensor& rows : {heads.q, heads.k}) rotary(ctx, rows, draw.first_position, c.rotary_theta, 1);
}

void block_after_attention(Context& ctx, const GptConfig& c, const BlockParams& p, BlockActivations& a,
                           Activations& shared, const BlockFp8* in_fp8) {
  const BlockFp8& fp8 = or_none(in_fp8);
  attention_to_gelu(ctx, c, p, a, shared, fp8);
  linear_forward(ctx, shared.branch, operand_of(fp8.gelu, a.gelu), operand_of(fp8.mlp_proj_weight, p.mlp_proj_weight),
                 p.mlp_proj_bias);
}

void block_forward(Context& ctx, const GptConfig& c, int64_t layer, const BlockParams& p, BlockActivations& a,
                   Activations& shared, ConstTensor x, ConstTensor skip, const AttentionDraw& draw, const BlockFp8* fp8,
                   const std::function<void()>& attend) {
  a.segments.draw(ctx, draw.seed, draw.step, static_cast<uint32_t>(layer));
  block_before_attention(ctx, c, layer, p, a, shared, x, skip, draw, fp8);
  a.segments.build(ctx, shared.document_start);
  if (draw.counts_loads) a.segments.add_bucket_loads(ctx);
  if (attend) {
    attend();
  } else {
    const Heads heads = heads_of(c, a.qkv, a.shared_keys);
    attention_forward(ctx, as_heads(a.attention, c.n_head), a.lse, heads.q, heads.k, heads.v, a.segments.relations,
                      c.softmax_scale(), shared.attention_scratch);
  }
  block_after_attention(ctx, c, p, a, shared, fp8);
}

void block_recompute(Context& ctx, const GptConfig& c, int64_t layer, const BlockParams& p, BlockActivations& a,
                     Activations& shared, const AttentionDraw& draw, const BlockFp8* fp8, Recompute recompute) {
  if (recompute != Recompute::kBlock) {
    gelu_forward(ctx, a.gelu, a.fc, p.fc_bias, gelu_kind(c));
    if (recompute == Recompute::kGelu) return;
    const auto eps = static_cast<float>(c.norm_eps);
    layernorm_forward(ctx, a.ln_1, {}, a.ln_1_mean, a.ln_1_rstd, a.residual_in, {}, p.ln_1_weight, p.ln_1_bias, eps);
    layernorm_forward(ctx, a.ln_2, {}, a.ln_2_mean, a.ln_2_rstd, a.residual_mid, {}, p.ln_2_weight, p.ln_2_bias, eps);
    return;
  }
  block_before_attention(ctx, c, layer, p, a, shared, a.residual_in, {}, draw, fp8);
  attention_to_gelu(ctx, c, p, a, shared, or_none(fp8));
}

void block_backward(Context& ctx, const GptConfig& c, const BlockParams& p, const BlockParams& d, Tensor dskip_bias,
                    BlockActivations& a, Activations& shared, const BlockFp8* in_fp8,
                    const std::function<void()>& before_attention) {
  const Tensor &dresidual = shared.dresidual, &dbranch = shared.dbranch;
  const BlockFp8& fp8 = or_none(in_fp8);
  if (in_fp8 != nullptr) {
    quantise(ctx, fp8.dresidual, {}, dresidual);
    gelu_gradient_scale(ctx, fp8.dpre_gelu.scale, fp8.dresidual.scale, fp8.mlp_proj_weight.scale, c.n_embd);
  }
  linear_wgrad(ctx, d.mlp_proj_weight, dresidual, a.gelu);
  linear_gelu_dgrad(ctx, shared.dfc, d.fc_bias, operand_of(fp8.dresidual, dresidual),
                    operand_of(fp8.mlp_proj_weight_t, p.mlp_proj_weight), a.fc, p.fc_bias, gelu_kind(c), fp8.dpre_gelu);
  linear_dgrad(ctx, dbranch, operand_of(fp8.dpre_gelu, shared.dfc), operand_of(fp8.fc_weight_t, p.fc_weight));
  linear_wgrad(ctx, d.fc_weight, shared.dfc, a.ln_2);
  layernorm_backward(ctx, dresidual, d.ln_2_weight, d.ln_2_bias, d.attn_proj_bias, dresidual, dbranch, a.residual_mid,
                     p.ln_2_weight, a.ln_2_mean, a.ln_2_rstd, shared.layernorm_scratch);
  linear_dgrad(ctx, dbranch, dresidual, p.attn_proj_weight);
  linear_wgrad(ctx, d.attn_proj_weight, dresidual, a.attention);
  before_attention();
  const Heads heads = heads_of(c, a.qkv, a.shared_keys), dheads = heads_of(c, shared.dqkv, shared.dshared_keys);
  attention_backward(ctx, dheads.q, dheads.k, dheads.v, as_heads(dbranch, c.n_head), heads.q, heads.k, heads.v,
                     as_heads(a.attention, c.n_head), a.lse, a.segments.relations, c.softmax_scale(),
                     shared.attention_scratch, c.shared_qk ? a.inverse_norm : Tensor());
  if (c.rotary()) {
    rotary(ctx, dheads.q, 0, c.rotary_theta, -1);
    if (!c.shared_qk) rotary(ctx, dheads.k, 0, c.rotary_theta, -1);
  }
  const Tensor dqkv = shared.dqkv.reshape({dbranch.size(0), dbranch.size(1), c.qkv_width()});
  linear_dgrad(ctx, dbranch, dqkv, p.attn_weight);
  linear_wgrad(ctx, d.attn_weight, dqkv, a.ln_1);
  if (d.attn_bias) linear_bgrad(ctx, d.attn_bias, dqkv);
  layernorm_backward(ctx, dresidual, d.ln_1_weight, d.ln_1_bias, dskip_bias, dresidual, dbranch, a.residual_in,
                     p.ln_1_weight, a.ln_1_mean, a.ln_1_rstd, shared.layernorm_scratch);
}

}  // namespace scfa

#include "model/fp8.h"

#include "kernels/linear/fp8.h"

namespace scfa {

void validate_fp8(const GptConfig& config, int64_t tokens) {
  require(config.n_embd % 16 == 0, "train.precision fp8 needs a model.n_embd that is a multiple of 16, not ",
          config.n_embd);
  require(config.qkv_width() % 16 == 0, "train.precision fp8 needs queries, keys and values, (model.n_head + 2 ",
          "model.n_kv_head) heads or so, of together a multiple of 16 columns, not ", config.qkv_width());
  require(config.padded_vocab() % 16 == 0, "train.precision fp8 needs a model.vocab_padding that is a multiple of 16, ",
          "not ", config.vocab_padding);
  require(fp8_takes(tokens),
          "train.precision fp8 needs a train.micro_batch_size times model.sequence_length that is a ",
          "multiple of 16, not ", tokens);
}

Fp8Activations plan_fp8(Arena& arena, const GptConfig& c, int64_t B, int64_t T) {
  const int64_t C = c.n_embd, L = c.n_layer;
  constexpr DType kE4M3 = DType::kE4M3, kE5M2 = DType::kE5M2;
  constexpr const char *kWeights = "weights in fp8", *kInputs = "inputs in fp8";
  const auto scale = [&] { return arena.take(kWeights, DType::kF32, {1}); };
  const auto weight = [&](int64_t rows, int64_t columns) {
    return ScaledTensor{arena.take(kWeights, kE4M3, {rows, columns}), scale()};
  };
  const auto transposed = [&](const ScaledTensor& of) {
    return ScaledTensor{arena.take(kWeights, kE4M3, {of.values.size(1), of.values.size(0)}), of.scale};
  };
  const Tensor narrow = arena.take(kInputs, kE4M3, {B, T, C}), wide = arena.take(kInputs, kE4M3, {B, T, 4 * C});
  const auto as_gradient = [](Tensor t) {
    t.dtype = kE5M2;
    return t;
  };
  Fp8Activations fp8;
  fp8.blocks.reserve(static_cast<size_t>(L));
  for (int64_t layer = 0; layer < L; ++layer) {
    BlockFp8 b;
    b.attn_weight = weight(c.qkv_width(), C);
    b.fc_weight = weight(4 * C, C), b.fc_weight_t = transposed(b.fc_weight);
    b.mlp_proj_weight = weight(C, 4 * C), b.mlp_proj_weight_t = transposed(b.mlp_proj_weight);
    b.ln_1 = {narrow, scale()}, b.ln_2 = {narrow, scale()}, b.gelu = {wide, scale()};
    b.dresidual = {as_gradient(narrow), scale()}, b.dpre_gelu = {as_gradient(wide), scale()};
    fp8.blocks.push_back(b);
  }
  fp8.hidden = {narrow, scale()};
  fp8.head_weight = weight(c.padded_vocab(), C);
  return fp8;
}

void quantise_weights(Context& ctx, const BlockFp8& fp8, const BlockParams& p) {
  layernorm_output_scale(ctx, fp8.ln_1.scale, p.ln_1_weight, p.ln_1_bias);
  layernorm_output_scale(ctx, fp8.ln_2.scale, p.ln_2_weight, p.ln_2_bias);
  gelu_output_scale(ctx, fp8.gelu.scale, p.fc_weight, p.ln_2_weight, p.ln_2_bias, p.fc_bias);
  quantise(ctx, fp8.attn_weight, {}, p.attn_weight);
  quantise(ctx, fp8.fc_weight, fp8.fc_weight_t.values, p.fc_weight);
  quantise(ctx, fp8.mlp_proj_weight, fp8.mlp_proj_weight_t.values, p.mlp_proj_weight);
}

void quantise_head(Context& ctx, const Fp8Activations& fp8, const GptParams& p) {
  layernorm_output_scale(ctx, fp8.hidden.scale, p.ln_f_weight, p.ln_f_bias);
  quantise(ctx, fp8.head_weight, {}, p.head());
}

}  // namespace scfa

#include "model/activations.h"

#include <algorithm>

#include "kernels/attention/attention.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"

namespace scfa {

namespace {

// Logits of one chunk: large enough to keep the device busy, small beside the activations.
constexpr int64_t kLogitElementsCpu = 16 << 20, kLogitElementsGpu = 448 << 20;

// Chunks of about the same size, each a multiple of 64 tokens but for the last.
int64_t head_chunk(const GptConfig& c, int64_t tokens, Device device) {
  const int64_t elements = device == Device::kGpu ? kLogitElementsGpu : kLogitElementsCpu;
  const int64_t most = std::max<int64_t>(64, elements / c.padded_vocab() / 64 * 64);
  const int64_t chunks = (tokens + most - 1) / most;
  return std::min(tokens, (tokens + chunks * 64 - 1) / (chunks * 64) * 64);
}

// What backward may compute again, except for the output of GELU. norms: the block whose outputs of layer norms are in
// the same memory, or null.
void plan_recomputed(BlockActivations& a, Arena& arena, const GptConfig& c, int64_t B, int64_t T,
                     const BlockActivations* norms) {
  const int64_t C = c.n_embd, H = c.n_head, D = c.head_dim();
  const DType f = activation_type(arena.device()), f32 = DType::kF32;
  a.ln_1 = norms != nullptr ? norms->ln_1 : arena.take("layer norms", f, {B, T, C});
  a.ln_1_mean = arena.take("layer norms", f32, {B, T});
  a.ln_1_rstd = arena.take("layer norms", f32, {B, T});
  a.qkv = arena.take("queries, keys, values", f, {B, T, c.qkv_heads(), D});
  if (c.shared_qk) {
    a.shared_keys = arena.take("queries, keys, values", f, {B, T, H, D});
    a.inverse_norm = arena.take("queries, keys, values", f32, {B, T, H});
  }
  a.residual_mid = arena.take("residual stream", f, {B, T, C});
  a.ln_2 = norms != nullptr ? norms->ln_2 : arena.take("layer norms", f, {B, T, C});
  a.ln_2_mean = arena.take("layer norms", f32, {B, T});
  a.ln_2_rstd = arena.take("layer norms", f32, {B, T});
  a.fc = arena.take("MLP", f, {B, T, 4 * C});
}

// Layers whose patterns are fixed have the segments of the first one with the same patterns.
LayerSegments plan_layer_segments(Arena& arena, const GptConfig& c, int64_t layer, int64_t B, int64_t T,
                                  const std::vector<BlockActivations>& before) {
  const HeadPatterns& patterns = c.patterns(layer);
  if (is_fixed(patterns))
    for (size_t l = 0; l < before.size(); ++l)
      if (c.patterns(static_cast<int64_t>(l)) == patterns) return before[l].segments.for_later_layer();
  return LayerSegments::plan(arena, patterns, B, c.n_head, T, c.head_dim(), c.sequence_length, c.documents);
}

BlockActivations plan_block(Arena& arena, const GptConfig& c, int64_t B, int64_t T, Recompute recompute,
                            const std::vector<BlockActivations>& before) {
  const int64_t C = c.n_embd, H = c.n_head;
  const BlockActivations* first = before.empty() ? nullptr : before.data();
  const DType f = activation_type(arena.device());
  BlockActivations a;
  if (first == nullptr || recompute != Recompute::kBlock)
    plan_recomputed(a, arena, c, B, T, recompute == Recompute::kNorms ? first : nullptr);
  else
    a = *first;
  a.gelu = first == nullptr || recompute == Recompute::kNone ? arena.take("MLP", f, {B, T, 4 * C}) : first->gelu;
  a.residual_in = arena.take("residual stream", f, {B, T, C});
  a.segments = plan_layer_segments(arena, c, static_cast<int64_t>(before.size()), B, T, before);
  a.attention = arena.take("attention output", f, {B, T, C});
  a.lse = arena.take("attention output", DType::kF32, {B, H, T});
  return a;
}

}  // namespace

Activations plan_activations(Arena& arena, const Context& ctx, const GptConfig& c, int64_t B, int64_t T, bool training,
                             Recompute recompute, Precision precision) {
  const int64_t C = c.n_embd;
  const DType f = activation_type(arena.device()), f32 = DType::kF32;
  Activations a;
  for (int64_t layer = 0; layer < c.n_layer; ++layer)
    a.blocks.push_back(plan_block(arena, c, B, T, recompute, a.blocks));
  if (c.documents) a.document_start = arena.take("segments", DType::kI32, {B, T});
  a.residual_out = arena.take("residual stream", f, {B, T, C});
  a.hidden = arena.take("layer norms", f, {B, T, C});
  a.ln_f_mean = arena.take("layer norms", f32, {B, T});
  a.ln_f_rstd = arena.take("layer norms", f32, {B, T});
  a.logits = arena.take("logits of a chunk", f, {head_chunk(c, B * T, arena.device()), c.padded_vocab()});
  a.loss_sums = arena.take("losses", DType::kF64, {3});
  a.losses = arena.take("losses", f32, {B * T});
  a.correct = arena.take("losses", f32, {B * T});
  a.branch = arena.take("scratch", f, {B, T, C});
  int64_t scratch = 0;
  for (const BlockActivations& block : a.blocks)
    scratch = std::max({scratch, block.segments.assign_scratch(ctx),
                        attention_scratch(ctx, block.segments.relations, c.head_dim(), c.kv_heads())});
  a.attention_scratch = arena.take("scratch", f32, {scratch});
  if (!training) return a;
  if (precision == Precision::kFp8) a.fp8 = plan_fp8(arena, c, B, T);
  a.dresidual = arena.take("activation gradients", f, {B, T, C});
  a.dbranch = arena.take("activation gradients", f, {B, T, C});
  a.dqkv = arena.take("activation gradients", f, {B, T, c.qkv_heads(), c.head_dim()});
  if (c.shared_qk) a.dshared_keys = arena.take("activation gradients", f, {B, T, c.n_head, c.head_dim()});
  a.dfc = arena.take("activation gradients", f, {B, T, 4 * C});
  a.layernorm_scratch = arena.take("scratch", f32, {layernorm_backward_scratch(ctx, B * T, C)});
  a.embedding_scratch = arena.take("scratch", f32, {embedding_backward_scratch(ctx, B * T, C)});
  return a;
}

void attach_bucket_biases(Activations& activations, const GptConfig& config, const BucketBiasTable& table,
                          Tensor biases, Tensor loads) {
  if (!biases) return;
  for (size_t l = 0; l < activations.blocks.size(); ++l) {
    LayerSegments& segments = activations.blocks[l].segments;
    segments.bucket_biases = view_bucket_biases(table, config, static_cast<int64_t>(l), biases);
    if (loads) segments.bucket_loads = view_bucket_biases(table, config, static_cast<int64_t>(l), loads);
  }
}

}  // namespace scfa

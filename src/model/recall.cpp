#include "model/recall.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attention.h"
#include "kernels/attention/patterns/assign.h"

namespace scfa {

namespace {

constexpr double kNoKey = std::numeric_limits<double>::infinity();  // the lse of a query that sees none

// Dense attention in which heads see themselves as they do in these patterns.
HeadPatterns dense_like(HeadPatterns patterns) {
  for (AttentionPattern& pattern : patterns)
    pattern = {.pattern = "dense", .attend_self = attends_self(pattern), .heads = pattern.heads};
  return patterns;
}

// By head.
std::vector<bool> attend_self(const HeadPatterns& patterns) {
  std::vector<bool> of_head;
  for (const AttentionPattern& pattern : patterns)
    of_head.insert(of_head.end(), static_cast<size_t>(pattern.heads), attends_self(pattern));
  return of_head;
}

}  // namespace

RecallMeter::Tensors RecallMeter::plan(Arena& arena, const Context& ctx, const GptConfig& c, int64_t B, int64_t T) {
  Tensors t;
  t.dense = LayerSegments::plan(arena, HeadPatterns(1), B, c.n_head, T, c.head_dim(), c.sequence_length, c.documents);
  t.out = arena.take("recall", activation_type(arena.device()), {B, T, c.n_embd});
  t.lse = arena.take("recall", DType::kF32, {B, c.n_head, T});
  t.scratch =
      arena.take("recall", DType::kF32, {attention_scratch(ctx, t.dense.relations, c.head_dim(), c.kv_heads())});
  return t;
}

int64_t RecallMeter::memory(const Context& ctx, const GptConfig& config, int64_t batch) {
  Arena arena(ctx.device());
  plan(arena, ctx, config, batch, config.sequence_length);
  return arena.used();
}

RecallMeter::RecallMeter(Gpt& model, const std::vector<HeadPatterns>& trained)
    : model_(model),
      ctx_(model.context()),
      arena_(ctx_.device(), memory(ctx_, model.config(), model.activations().blocks.at(0).lse.size(0))) {
  const GptConfig& c = model.config();
  GptConfig before = c;
  before.attention = trained;
  validate(before);
  for (int64_t layer = 0; layer < c.n_layer; ++layer) trained_.push_back(for_heads(before.patterns(layer), c.n_head));
  const Tensor& lse = model.activations().blocks[0].lse;
  tensors_ = plan(arena_, ctx_, c, lse.size(0), lse.size(2));
  for (const Tensor& segment : {tensors_.dense.relations[0].q_segment, tensors_.dense.relations[0].k_segment})
    fill_heads(ctx_, segment, 0, c.n_head, 0);
  pattern_lse_.resize(static_cast<size_t>(lse.numel()));
  dense_lse_.resize(pattern_lse_.size());
  heads_.assign(static_cast<size_t>(c.n_layer), std::vector<HeadRecall>(static_cast<size_t>(c.n_head)));
  model.set_attention(
      [this](int64_t layer, const BlockActivations& a, const Batch& batch) { attend(layer, a, batch); });
}

RecallMeter::~RecallMeter() {
  model_.set_attention({});
}

void RecallMeter::attend_densely(const Heads& heads, const HeadPatterns& patterns, const Tensor& out,
                                 const Tensor& lse) {
  const GptConfig& c = model_.config();
  tensors_.dense.patterns = dense_like(patterns);
  tensors_.dense.build(ctx_, model_.activations().document_start);
  attention_forward(ctx_, as_heads(out, c.n_head), lse, heads.q, heads.k, heads.v, tensors_.dense.relations,
                    c.softmax_scale(), tensors_.scratch);
}

void RecallMeter::attend(int64_t layer, const BlockActivations& a, const Batch& batch) {
  const GptConfig& c = model_.config();
  const Heads heads = heads_of(c, a.qkv, a.shared_keys);
  const HeadPatterns &measured = a.segments.patterns, &trained = trained_[static_cast<size_t>(layer)];
  const auto to_host = [&](std::vector<float>& host, const Tensor& lse) {
    ctx_.copy(Tensor(host.data(), DType::kF32, Device::kCpu, {lse.size(0), lse.size(1), lse.size(2)}), lse);
  };
  attention_forward(ctx_, as_heads(tensors_.out, c.n_head), tensors_.lse, heads.q, heads.k, heads.v,
                    a.segments.relations, c.softmax_scale(), model_.activations().attention_scratch);
  to_host(pattern_lse_, tensors_.lse);
  const bool alike = attend_self(measured) == attend_self(trained);
  if (alike)
    attend_densely(heads, measured, a.attention, a.lse);
  else
    attend_densely(heads, measured, tensors_.out, tensors_.lse);
  to_host(dense_lse_, alike ? a.lse : tensors_.lse);
  add(layer, a, batch.rows > 0 ? batch.rows : a.lse.size(0));
  if (!alike) attend_densely(heads, trained, a.attention, a.lse);
}

void RecallMeter::add(int64_t layer, const BlockActivations& a, int64_t sequences) {
  std::vector<HeadRecall>& of_head = heads_[static_cast<size_t>(layer)];
  const std::vector<double> pairs = count_pairs(ctx_, a.segments.relations, sequences),
                            dense_pairs = count_pairs(ctx_, tensors_.dense.relations, sequences);
  const int64_t H = a.lse.size(1), T = a.lse.size(2);
#pragma omp parallel for
  for (int64_t h = 0; h < H; ++h) {
    HeadRecall& head = of_head[static_cast<size_t>(h)];
    head.pairs += pairs[static_cast<size_t>(h)];
    head.dense_pairs += dense_pairs[static_cast<size_t>(h)];
    for (int64_t b = 0; b < sequences; ++b)
      for (int64_t t = 0; t < T; ++t) {
        const auto i = static_cast<size_t>((b * H + h) * T + t);
        const double seen = static_cast<double>(pattern_lse_[i]), all = static_cast<double>(dense_lse_[i]);
        if (all == kNoKey) continue;
        if (seen != kNoKey) head.recall += std::min(1.0, std::exp2(seen - all));
        ++head.queries;
      }
  }
}

}  // namespace scfa

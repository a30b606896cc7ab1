#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "kernels/attention/attention.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"

namespace scfa {

namespace {

struct Plan {
  Activations acts;
  Tensor ids, logits;
};

Plan make_plan(Arena& arena, const Context& ctx, const GptConfig& c) {
  return {plan_activations(arena, ctx, c, 1, 1, false), arena.take("ids", DType::kI32, {1, 1}),
          arena.take("logits", DType::kF32, {1, c.padded_vocab()})};
}

int64_t measure(const Context& ctx, const GptConfig& c) {
  Arena arena(ctx.device());
  make_plan(arena, ctx, c);
  return arena.used();
}

}  // namespace

Decoder::Decoder(Gpt& model)
    : model_(model), ctx_(model.context()), arena_(ctx_.device(), measure(ctx_, model.config())) {
  ctx_.require_cpu("generation");
  const Plan plan = make_plan(arena_, ctx_, model.config());
  acts_ = plan.acts;
  ids_ = plan.ids;
  logits_ = plan.logits;
  for (int64_t layer = 0; layer < model.config().n_layer; ++layer) {
    const BlockActivations& a = acts_.blocks[static_cast<size_t>(layer)];
    if (a.projections)
      draw_projections(ctx_, a.projections, model.seed(), kEvaluationStep, static_cast<uint32_t>(layer));
  }
  reset();
}

void Decoder::reset() {
  const GptConfig& c = model_.config();
  cache_.clear();
  for (int64_t layer = 0; layer < c.n_layer; ++layer)
    cache_.emplace_back(static_cast<size_t>(c.n_head * segment_count(c.pattern(layer))));
  length_ = 0;
}

void Decoder::attend(int64_t layer, const BlockActivations& a) {
  const GptConfig& c = model_.config();
  const int64_t D = c.head_dim(), S = segment_count(c.pattern(layer));
  const bool self = attends_self(c.pattern(layer));
  const Heads heads(a.qkv, a.shared_keys);
  std::vector<Bucket>& buckets = cache_[static_cast<size_t>(layer)];
  const auto *q_segment = a.segments.q_segment.as<uint16_t>(), *k_segment = a.segments.k_segment.as<uint16_t>();
  for (int64_t h = 0; h < c.n_head; ++h) {
    const auto head_row = [&](const Tensor& t) { return t.select(0).select(0).select(h); };
    const auto cache_key = [&] {
      if (k_segment[h] == kNoSegment) return;
      Bucket& bucket = buckets[static_cast<size_t>(h * S + k_segment[h])];
      const float *key = head_row(heads.k).as<float>(), *value = head_row(heads.v).as<float>();
      bucket.keys.insert(bucket.keys.end(), key, key + D);
      bucket.values.insert(bucket.values.end(), value, value + D);
    };
    if (self) cache_key();
    static Bucket nothing;
    Bucket& seen = q_segment[h] == kNoSegment ? nothing : buckets[static_cast<size_t>(h * S + q_segment[h])];
    const int64_t n = static_cast<int64_t>(seen.keys.size()) / D;
    attention_decode(ctx_, head_row(as_heads(a.attention, c.n_head)), head_row(heads.q),
                     Tensor(seen.keys.data(), DType::kF32, Device::kCpu, {n, D}),
                     Tensor(seen.values.data(), DType::kF32, Device::kCpu, {n, D}), c.softmax_scale());
    if (!self) cache_key();
  }
}

ConstTensor Decoder::feed(int32_t token) {
  const GptConfig& c = model_.config();
  const GptParams& p = model_.params();
  require(length_ < c.sequence_length, "generate: the model's context of ", c.sequence_length, " tokens is full");
  const uint32_t sample = 0;
  AttentionDraw draw;
  draw.seed = model_.seed();
  draw.step = kEvaluationStep;
  draw.samples = &sample;
  draw.first_position = length_;
  ids_.as<int32_t>()[0] = token;
  Tensor x = acts_.blocks[0].residual_in, skip;
  embedding_forward(ctx_, x, ids_, p.wte, p.wpe, length_);
  for (int64_t layer = 0; layer < c.n_layer; ++layer) {
    const auto l = static_cast<size_t>(layer);
    block_before_attention(ctx_, c, layer, p.blocks[l], acts_.blocks[l], x, skip, draw);
    attend(layer, acts_.blocks[l]);
    block_after_attention(ctx_, c, p.blocks[l], acts_.blocks[l], acts_);
    x = acts_.blocks[l].residual_mid;
    skip = acts_.branch;
  }
  layernorm_forward(ctx_, acts_.hidden, acts_.residual_out, acts_.ln_f_mean, acts_.ln_f_rstd, x, skip, p.ln_f_weight,
                    p.ln_f_bias, static_cast<float>(c.norm_eps));
  matmul_forward(ctx_, logits_, acts_.hidden, p.head(), {});
  ++length_;
  return logits_.reshape({c.padded_vocab()}).slice(0, c.vocab_size);
}

int32_t sample_token(ConstTensor logits, const SamplingOptions& options, double uniform) {
  require(options.temperature >= 0, "generate: temperature must be at least 0, not ", options.temperature);
  require(options.top_k >= 0, "generate: top-k must be at least 0, not ", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, "generate: top-p must be above 0 and at most 1, not ",
          options.top_p);
  const float* x = logits.as<float>();
  const int64_t V = logits.numel();
  if (options.temperature == 0) return static_cast<int32_t>(std::max_element(x, x + V) - x);
  std::vector<int32_t> order(static_cast<size_t>(V));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  if (options.top_k > 0) order.resize(static_cast<size_t>(std::min(options.top_k, V)));
  std::vector<double> weight;
  double total = 0;
  for (const int32_t token : order) {
    weight.push_back(
        std::exp((static_cast<double>(x[token]) - static_cast<double>(x[order[0]])) / options.temperature));
    total += weight.back();
  }
  double kept = 0;
  size_t count = 0;
  while (count < weight.size() && (count == 0 || kept < options.top_p * total)) kept += weight[count++];
  double target = uniform * kept;
  for (size_t i = 0; i < count; ++i) {
    target -= weight[i];
    if (target < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace scfa

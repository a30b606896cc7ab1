#include "model/decoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "kernels/document_starts.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/linear/linear.h"

namespace scfa {

namespace {

bool all_causal(const GptConfig& c) {
  return std::all_of(c.attention.begin(), c.attention.end(),
                     [](const HeadPatterns& patterns) { return is_causal(patterns); });
}

struct Plan {
  Activations acts;
  Tensor ids, samples, logits;
  std::vector<KeyValueCache> cache;
};

// For `length` tokens at once, with caches if it is one.
Plan make_plan(Arena& arena, const Context& ctx, const GptConfig& c, const ParameterStore& store, int64_t length) {
  const DType type = activation_type(ctx.device());
  Plan plan{{},
            arena.take("ids", DType::kI32, {1, length}),
            arena.take("ids", DType::kI32, {1}),
            arena.take("logits", type, {1, c.padded_vocab()}),
            {}};
  plan.acts = plan_activations(arena, ctx, c, 1, length, false);
  attach_bucket_biases(plan.acts, c, store.bucket_bias_table(), store.bucket_biases());
  if (!all_causal(c)) return plan;
  for (int64_t layer = 0; layer < c.n_layer; ++layer)
    plan.cache.push_back(plan_cache(arena, type, c.n_head, c.sequence_length, c.head_dim(),
                                    relation_count(c.patterns(layer)), c.kv_heads()));
  return plan;
}

int64_t measure(const Context& ctx, const GptConfig& c, const ParameterStore& store) {
  Arena arena(ctx.device());
  make_plan(arena, ctx, c, store, all_causal(c) ? 1 : c.sequence_length);
  return arena.used();
}

// Places tensors in memory from its beginning on.
Arena over(const Buffer& memory, Device device) {
  return {device, [next = static_cast<char*>(memory.data())](const std::string&, const Tensor& tensor) mutable {
            void* at = next;
            next += (tensor.bytes() + 255) / 256 * 256;
            return at;
          }};
}

}  // namespace

Decoder::Decoder(Gpt& model)
    : model_(model),
      ctx_(model.context()),
      memory_(static_cast<size_t>(measure(ctx_, model.config(), model.store())), ctx_.device()),
      causal_(all_causal(model.config())) {
  Arena arena = over(memory_, ctx_.device());
  Plan plan = make_plan(arena, ctx_, model.config(), model.store(), 1);
  acts_ = plan.acts;
  ids_ = plan.ids;
  samples_ = plan.samples;
  logits_ = plan.logits;
  cache_ = std::move(plan.cache);
  host_logits_.resize(static_cast<size_t>(logits_.numel()));
  if (!causal_) return;
  ctx_.zero(samples_);
  for (size_t layer = 0; layer < acts_.blocks.size(); ++layer)
    acts_.blocks[layer].segments.draw(ctx_, model.seed(), kEvaluationStep, static_cast<uint32_t>(layer));
}

void Decoder::attend(int64_t layer, const BlockActivations& a) {
  const GptConfig& c = model_.config();
  const Heads heads = heads_of(c, a.qkv, a.shared_keys);
  const KeyValueCache& cache = cache_[static_cast<size_t>(layer)];
  cache_append(ctx_, cache, length_, heads.k, heads.v, a.segments.relations);
  std::vector<HeadRanges> ranges(a.segments.relations.size());
  for (size_t r = 0; r < ranges.size(); ++r)
    for (const Visibility& visible : visibility(a.segments.patterns, static_cast<int64_t>(r))) {
      const int64_t end = std::max<int64_t>(length_ + 1 - visible.nearest(), 0);
      const int64_t window_begin = visible.window > 0 ? length_ + 1 - visible.window : 0;
      ranges[r].push_back({std::min(std::max(window_begin, document_begin_), end), end, visible.heads});
    }
  attention_decode(ctx_, as_heads(a.attention, c.n_head), a.lse, heads.q, cache, a.segments.relations, ranges,
                   c.softmax_scale());
}

ConstTensor Decoder::feed(int32_t token) {
  const GptConfig& c = model_.config();
  require(length_ < c.sequence_length, "the model's context of ", c.sequence_length, " tokens is full");
  if (causal_) {
    forward_cached(token);
  } else {
    text_.push_back(token);
    forward_whole();
  }
  ++length_;
  if (c.documents && token == c.end_of_text) document_begin_ = length_;
  read_logits();
  return ConstTensor(host_logits_.data(), DType::kF32, Device::kCpu, {c.vocab_size});
}

template <class RunBlock>
void Decoder::run_layers(const Tensor& ids, int64_t first_position, const Tensor& samples, const RunBlock& run_block) {
  const GptConfig& c = model_.config();
  const GptParams& p = model_.params();
  AttentionDraw draw;
  draw.seed = model_.seed();
  draw.step = kEvaluationStep;
  draw.samples = samples;
  draw.first_position = first_position;
  Tensor x = acts_.blocks[0].residual_in, skip;
  embedding_forward(ctx_, x, ids, p.wte, p.wpe, first_position);
  for (int64_t layer = 0; layer < c.n_layer; ++layer) {
    const auto l = static_cast<size_t>(layer);
    run_block(layer, p.blocks[l], acts_.blocks[l], x, skip, draw);
    x = acts_.blocks[l].residual_mid;
    skip = acts_.branch;
  }
  layernorm_forward(ctx_, acts_.hidden, acts_.residual_out, acts_.ln_f_mean, acts_.ln_f_rstd, x, skip, p.ln_f_weight,
                    p.ln_f_bias, static_cast<float>(c.norm_eps));
  const int64_t T = ids.size(1);
  linear_forward(ctx_, logits_, acts_.hidden.reshape({T, c.n_embd}).slice(T - 1, 1), p.head(), {});
}

void Decoder::forward_cached(int32_t token) {
  const GptConfig& c = model_.config();
  ctx_.copy(ids_, ConstTensor(&token, DType::kI32, Device::kCpu, {1, 1}));
  run_layers(ids_, length_, samples_,
             [&](int64_t layer, const BlockParams& p, BlockActivations& a, const Tensor& x, const Tensor& skip,
                 const AttentionDraw& draw) {
               block_before_attention(ctx_, c, layer, p, a, acts_, x, skip, draw);
               attend(layer, a);
               block_after_attention(ctx_, c, p, a, acts_);
             });
}

void Decoder::forward_whole() {
  const GptConfig& c = model_.config();
  const auto T = static_cast<int64_t>(text_.size());
  Arena arena = over(memory_, ctx_.device());
  Plan plan = make_plan(arena, ctx_, c, model_.store(), T);
  acts_ = plan.acts;
  logits_ = plan.logits;
  ctx_.zero(plan.samples);
  ctx_.copy(plan.ids, ConstTensor(text_.data(), DType::kI32, Device::kCpu, {1, T}));
  if (c.documents) document_starts(ctx_, acts_.document_start, plan.ids, static_cast<int32_t>(c.end_of_text));
  run_layers(plan.ids, 0, plan.samples,
             [&](int64_t layer, const BlockParams& p, BlockActivations& a, const Tensor& x, const Tensor& skip,
                 const AttentionDraw& draw) { block_forward(ctx_, c, layer, p, a, acts_, x, skip, draw); });
}

void Decoder::read_logits() {
  if (!ctx_.on_gpu()) {
    std::copy_n(logits_.as<float>(), host_logits_.size(), host_logits_.data());
    return;
  }
  std::vector<uint16_t> bits(host_logits_.size());  // bf16: the upper half of an f32
  ctx_.copy(Tensor(bits.data(), DType::kBF16, Device::kCpu, {1, logits_.numel()}), logits_);
  for (size_t i = 0; i < bits.size(); ++i) host_logits_[i] = std::bit_cast<float>(uint32_t{bits[i]} << 16);
}

ConstTensor SlidingDecoder::feed(int32_t token) {
  if (!full()) {
    context_.push_back(token);
    return decoder_.feed(token);
  }
  context_.push_back(token);
  context_.erase(context_.begin(), context_.end() - std::max<int64_t>(1, context_length_ / 2));
  decoder_.reset();
  ConstTensor logits;
  for (const int32_t kept : context_) logits = decoder_.feed(kept);
  return logits;
}

void SlidingDecoder::reset() {
  decoder_.reset();
  context_.clear();
}

int32_t sample_token(ConstTensor logits, const SamplingOptions& options, double uniform) {
  constexpr const char* kOp = "sample_token";
  require(options.temperature >= 0, kOp, ": temperature must be at least 0, not ", options.temperature);
  require(options.top_k >= 0, kOp, ": top-k must be at least 0, not ", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, kOp, ": top-p must be above 0 and at most 1, not ", options.top_p);
  const float* x = logits.as<float>();
  const int64_t V = logits.numel();
  for (int64_t v = 0; v < V; ++v)
    require(std::isfinite(x[v]), "the model's logits are not finite (that of token ", v, " is ", x[v],
            "): its weights are of no use");
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

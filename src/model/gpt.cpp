#include "model/gpt.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"

namespace scfa {

namespace {

struct Plan {
  Tensor values, gradients;
  Activations acts;
};

Plan make_plan(Arena& arena, const Context& ctx, const GptConfig& config, const ParameterTable& table, int64_t batch,
               Gpt::Mode mode) {
  const bool training = mode == Gpt::Mode::kTraining;
  Plan plan;
  plan.values = arena.take("parameters", DType::kF32, {table.length});
  if (training) plan.gradients = arena.take("parameter gradients", DType::kF32, {table.length});
  if (mode != Gpt::Mode::kDecoding)
    plan.acts = plan_activations(arena, ctx, config, batch, config.sequence_length, training);
  return plan;
}

Arena measure(const Context& ctx, const GptConfig& config, const ParameterTable& table, int64_t batch, Gpt::Mode mode) {
  Arena arena(ctx.device());
  make_plan(arena, ctx, config, table, batch, mode);
  return arena;
}

const GptConfig& validated(const GptConfig& config) {
  validate(config);
  return config;
}

bool finite(const ConstTensor& t) {
  const float* x = t.as<float>();
  const int64_t n = t.numel();
  bool ok = true;
#pragma omp parallel for reduction(&& : ok)
  for (int64_t i = 0; i < n; ++i) ok = ok && std::isfinite(x[i]);
  return ok;
}

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  loss += other.loss;
  hits += other.hits;
  tokens += other.tokens;
  return *this;
}

Gpt::Gpt(Context& ctx, const GptConfig& config, int64_t batch, uint64_t seed, Mode mode)
    : ctx_(ctx), config_(validated(config)), table_(config), batch_(batch), seed_(seed) {
  require(batch >= 1, "a micro-batch must have at least one sequence, not ", batch);
  arena_ = std::make_unique<Arena>(ctx.device(), measure(ctx, config, table_, batch, mode).used());
  const Plan plan = make_plan(*arena_, ctx, config_, table_, batch, mode);
  values_ = plan.values;
  gradients_ = plan.gradients;
  acts_ = plan.acts;
  params_ = view_parameters(config_, values_);
  std::memset(values_.data, 0, static_cast<size_t>(values_.bytes()));  // what lies between tensors stays zero
  if (!gradients_) return;
  grads_ = view_parameters(config_, gradients_);
  zero_gradients();
}

std::vector<Arena::Item> Gpt::memory_plan(const Context& ctx, const GptConfig& config, int64_t batch, Mode mode) {
  validate(config);
  return measure(ctx, config, ParameterTable(config), batch, mode).items();
}

void Gpt::init(uint64_t seed) {
  init_parameters(table_, values_, config_.n_layer, seed);
}

void Gpt::zero_gradients() {
  std::memset(gradients_.data, 0, static_cast<size_t>(gradients_.bytes()));
}

AttentionDraw Gpt::draw(const Batch& batch, int64_t layer) const {
  AttentionDraw draw;
  draw.seed = seed_;
  draw.step = batch.step;
  draw.samples = batch.samples;
  if (!batch.q_segments) return draw;
  draw.q_segment = batch.q_segments.select(layer);
  draw.k_segment = batch.k_segments.select(layer);
  return draw;
}

LossSums Gpt::forward(const Batch& batch, bool gradients) {
  require_tensor(batch.ids, "forward", "ids", DType::kI32, {batch_, config_.sequence_length});
  require_tensor(batch.targets, "forward", "targets", DType::kI32, {batch_, config_.sequence_length});
  require(!acts_.blocks.empty(), "forward: the model was made for decoding only");
  require(!gradients || gradients_, "forward: gradients asked of a model made for evaluation");
  Tensor x = acts_.blocks[0].residual_in, skip;
  embedding_forward(ctx_, x, batch.ids, params_.wte, params_.wpe, 0);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const auto l = static_cast<size_t>(layer);
    block_forward(ctx_, config_, layer, params_.blocks[l], acts_.blocks[l], acts_, x, skip, draw(batch, layer));
    x = acts_.blocks[l].residual_mid;
    skip = acts_.branch;
  }
  layernorm_forward(ctx_, acts_.hidden, acts_.residual_out, acts_.ln_f_mean, acts_.ln_f_rstd, x, skip,
                    params_.ln_f_weight, params_.ln_f_bias, static_cast<float>(config_.norm_eps));
  return head(batch, gradients);
}

LossSums Gpt::head(const Batch& batch, bool gradients) {
  const int64_t N = batch.ids.numel(), C = config_.n_embd, chunk = acts_.logits.size(0);
  const Tensor hidden = acts_.hidden.reshape({N, C});
  const ConstTensor targets = batch.targets.reshape({N});
  const Tensor& dhead = config_.tied_embedding ? grads_.wte : grads_.lm_head;
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t n = std::min(chunk, N - begin);
    const Tensor logits = acts_.logits.slice(0, n), rows = hidden.slice(begin, n);
    matmul_forward(ctx_, logits, rows, params_.head(), {});
    cross_entropy(ctx_, acts_.losses.slice(begin, n), acts_.hits.slice(begin, n), logits, targets.slice(begin, n),
                  config_.vocab_size, gradients ? batch.gradient_scale : 0.0f);
    if (gradients)
      matmul_backward(ctx_, acts_.dbranch.reshape({N, C}).slice(begin, n), dhead, {}, logits, rows, params_.head());
  }
  LossSums sums;
  sums.tokens = batch.rows > 0 ? batch.rows * config_.sequence_length : N;
  for (int64_t i = 0; i < sums.tokens; ++i) {
    sums.loss += static_cast<double>(acts_.losses.as<float>()[i]);
    sums.hits += static_cast<double>(acts_.hits.as<float>()[i]);
  }
  return sums;
}

void Gpt::backward(const Batch& batch) {
  std::memset(acts_.dresidual.data, 0, static_cast<size_t>(acts_.dresidual.bytes()));
  layernorm_backward(ctx_, acts_.dresidual, grads_.ln_f_weight, grads_.ln_f_bias, acts_.dbranch, acts_.residual_out,
                     params_.ln_f_weight, acts_.ln_f_mean, acts_.ln_f_rstd, acts_.layernorm_scratch);
  for (size_t l = acts_.blocks.size(); l-- > 0;)
    block_backward(ctx_, config_, params_.blocks[l], grads_.blocks[l], acts_.blocks[l], acts_);
  embedding_backward(ctx_, grads_.wte, grads_.wpe, acts_.dresidual, batch.ids);
}

void Gpt::logits(Tensor out, int64_t begin) {
  const Tensor hidden = acts_.hidden.reshape({acts_.hidden.rows(), config_.n_embd});
  matmul_forward(ctx_, out, hidden.slice(begin, out.size(0)), params_.head(), {});
}

std::string Gpt::first_non_finite() const {
  for (const ParameterEntry& entry : table_.entries)
    if (!finite(values_.slice(entry.offset, entry.size))) return "parameter " + entry.name;
  for (size_t l = 0; l < acts_.blocks.size(); ++l) {
    const BlockActivations& a = acts_.blocks[l];
    const struct {
      const char* name;
      const Tensor& tensor;
    } outputs[] = {{"residual stream in", a.residual_in},
                   {"ln_1 output", a.ln_1},
                   {"queries, keys, values", a.qkv},
                   {"attention output", a.attention},
                   {"residual stream mid", a.residual_mid},
                   {"ln_2 output", a.ln_2},
                   {"c_fc output", a.fc},
                   {"GELU output", a.gelu}};
    for (const auto& output : outputs)
      if (!finite(output.tensor)) return concat("h.", l, " ", output.name);
  }
  if (!finite(acts_.residual_out)) return "residual stream out";
  if (!finite(acts_.hidden)) return "ln_f output";
  if (!finite(acts_.losses)) return "loss";
  if (!gradients_) return {};
  for (size_t i = table_.entries.size(); i-- > 0;) {  // backward runs from the last layer to the first
    const ParameterEntry& entry = table_.entries[i];
    if (!finite(gradients_.slice(entry.offset, entry.size))) return "gradient of " + entry.name;
  }
  return {};
}

}  // namespace scfa

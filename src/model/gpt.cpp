#include "model/gpt.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/cross_entropy.h"
#include "kernels/document_starts.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/linear/linear.h"

namespace scfa {

namespace {

int64_t length_of(const GptConfig& config, int64_t length) {
  require(length >= 0 && length <= config.sequence_length,
          "a sequence must have up to model.sequence_length = ", config.sequence_length, " tokens, not ", length);
  return length > 0 ? length : config.sequence_length;
}

Activations plan_for(Arena& arena, const Context& ctx, const GptConfig& config, int64_t batch, Gpt::Mode mode,
                     int64_t length, Recompute recompute, Precision precision) {
  if (mode == Gpt::Mode::kDecoding) return {};
  return plan_activations(arena, ctx, config, batch, length, mode == Gpt::Mode::kTraining, recompute, precision);
}

// Of the stage that takes most.
Arena measure(const Context& ctx, const GptConfig& config, int64_t batch, Gpt::Mode mode, int64_t length,
              Recompute recompute, Precision precision) {
  Arena most(ctx.device());
  for (int64_t stage = 0; stage < config.stages(); ++stage) {
    Arena arena(ctx.device());
    plan_for(arena, ctx, config.at_stage(stage), batch, mode, length, recompute, precision);
    if (stage == 0 || arena.used() > most.used()) most = std::move(arena);
  }
  return most;
}

const GptConfig& validated(const GptConfig& config, Device device) {
  validate(config);
  if (device == Device::kGpu) validate_for_gpu(config);
  return config;
}

// A contiguous tensor of f32 or bf16 on either device; the host looks at it a part at a time.
bool finite(const Context& ctx, const ConstTensor& t) {
  constexpr int64_t kPart = 16 << 20;
  const int64_t n = t.numel(), element = static_cast<int64_t>(size_of(t.dtype));
  Buffer buffer(t.device == Device::kGpu ? static_cast<size_t>(std::min(n, kPart) * element) : 0, Device::kCpu);
  bool ok = true;
  for (int64_t begin = 0; begin < n && ok; begin += kPart) {
    const int64_t count = std::min(kPart, n - begin);
    const ConstTensor part(t.offset(begin), t.dtype, t.device, {count});
    const void* data = part.data;
    if (t.device == Device::kGpu) {
      ctx.copy(Tensor(buffer.data(), t.dtype, Device::kCpu, {count}), part);
      data = buffer.data();
    }
    if (t.dtype == DType::kBF16) {  // all ones in the exponent: infinite or NaN
      const auto* x = static_cast<const uint16_t*>(data);
#pragma omp parallel for reduction(&& : ok)
      for (int64_t i = 0; i < count; ++i) ok = ok && (x[i] & 0x7F80u) != 0x7F80u;
    } else {
      const auto* x = static_cast<const float*>(data);
#pragma omp parallel for reduction(&& : ok)
      for (int64_t i = 0; i < count; ++i) ok = ok && std::isfinite(x[i]);
    }
  }
  return ok;
}

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  loss += other.loss;
  correct += other.correct;
  tokens += other.tokens;
  return *this;
}

Gpt::Gpt(ParameterStore& store, const GptConfig& config, int64_t batch, uint64_t seed, Mode mode, int64_t length,
         Recompute recompute, Precision precision)
    : store_(store),
      ctx_(store.context()),
      config_(validated(config, ctx_.device()).at_stage(0)),
      batch_(batch),
      length_(length_of(config, length)),
      seed_(seed),
      mode_(mode),
      recompute_(recompute),
      precision_(precision) {
  require(batch >= 1, "a micro-batch must have at least one sequence, not ", batch);
  require(training() || (recompute == Recompute::kNone && precision == Precision::kDefault),
          "gpt: only training computes activations again, or in another precision");
  if (precision == Precision::kFp8) validate_fp8(config_, batch * length_);
  require(!training() || store.training(), "gpt: training asked of parameters without gradients");
  const Arena measured = measure(ctx_, config_, batch, mode, length_, recompute, precision);
  memory_ = measured.items();
  arena_ = std::make_unique<Arena>(ctx_.device(), measured.used());
  plan();
  params_ = view_parameters(config_, store.compute_params());
  if (training()) grads_ = view_parameters(config_, store.gradients());
}

void Gpt::plan() {
  arena_->clear();
  rounds_weights_ = true;
  acts_ = plan_for(*arena_, ctx_, config_, batch_, mode_, length_, recompute_, precision_);
  attach_bucket_biases(acts_, config_, store_.bucket_bias_table(), store_.bucket_biases(), store_.bucket_loads());
  if (acts_.loss_sums) ctx_.zero(acts_.loss_sums);
}

bool Gpt::set_stage(int64_t stage) {
  if (stage == stage_) return false;
  stage_ = stage;
  config_ = config_.at_stage(stage);
  plan();
  return true;
}

std::vector<Arena::Item> Gpt::memory_plan(const Context& ctx, const GptConfig& config, int64_t batch, Mode mode,
                                          int64_t length, Recompute recompute, Precision precision) {
  validate(config);
  return measure(ctx, config, batch, mode, length_of(config, length), recompute, precision).items();
}

void Gpt::set_attention(LayerAttention attention) {
  require(!training(), "set_attention: the model was made for training");
  attention_ = std::move(attention);
}

void Gpt::zero_gradients() {
  rounds_weights_ = true;
  ctx_.zero(store_.gradients());
  if (store_.bucket_loads()) ctx_.zero(store_.bucket_loads());
}

void Gpt::update_bucket_biases() {
  for (const BlockActivations& block : acts_.blocks) block.segments.update_bucket_biases(ctx_);
}

AttentionDraw Gpt::draw(const Batch& batch, int64_t layer, bool gradients) const {
  AttentionDraw draw;
  draw.seed = seed_;
  draw.step = batch.step;
  draw.samples = batch.samples;
  draw.counts_loads = gradients;
  if (!batch.q_segments) return draw;
  draw.q_segment = batch.q_segments.select(layer);
  draw.k_segment = batch.k_segments.select(layer);
  return draw;
}

void Gpt::forward(const Batch& batch, bool gradients) {
  require_tensor(batch.ids, "forward", "ids", DType::kI32, {batch_, length_});
  require_tensor(batch.targets, "forward", "targets", DType::kI32, {batch_, length_});
  require(!acts_.blocks.empty(), "forward: the model was made for decoding only");
  require(!gradients || training(), "forward: gradients asked of a model made for evaluation");
  const auto about_to_use = [&](size_t group) {
    if (observer_ != nullptr) observer_->before_use(group);
  };
  about_to_use(0);
  if (config_.documents)
    document_starts(ctx_, acts_.document_start, batch.ids, static_cast<int32_t>(config_.end_of_text));
  Tensor x = acts_.blocks[0].residual_in, skip;
  embedding_forward(ctx_, x, batch.ids, params_.wte, params_.wpe, 0);
  for (int64_t layer = 0; layer < config_.n_layer; ++layer) {
    const auto l = static_cast<size_t>(layer);
    about_to_use(l + 1);
    std::function<void()> attend;
    if (attention_) attend = [&, layer] { attention_(layer, acts_.blocks[l], batch); };
    const BlockFp8* fp8 = in_fp8(gradients) ? &acts_.fp8.blocks[l] : nullptr;
    if (fp8 != nullptr && rounds_weights_) quantise_weights(ctx_, *fp8, params_.blocks[l]);
    block_forward(ctx_, config_, layer, params_.blocks[l], acts_.blocks[l], acts_, x, skip,
                  draw(batch, layer, gradients), fp8, attend);
    x = acts_.blocks[l].residual_mid;
    skip = acts_.branch;
  }
  about_to_use(acts_.blocks.size() + 1);
  if (in_fp8(gradients) && rounds_weights_) quantise_head(ctx_, acts_.fp8, params_);
  if (in_fp8(gradients)) rounds_weights_ = false;
  layernorm_forward(ctx_, acts_.hidden, acts_.residual_out, acts_.ln_f_mean, acts_.ln_f_rstd, x, skip,
                    params_.ln_f_weight, params_.ln_f_bias, static_cast<float>(config_.norm_eps),
                    in_fp8(gradients) ? acts_.fp8.hidden : ScaledTensor());
  head(batch, gradients);
}

void Gpt::head(const Batch& batch, bool gradients) {
  const int64_t N = batch.ids.numel(), C = config_.n_embd, chunk = acts_.logits.size(0);
  const Tensor hidden = acts_.hidden.reshape({N, C});
  const ConstTensor targets = batch.targets.reshape({N});
  const Tensor& dhead = config_.tied_embedding ? grads_.wte : grads_.lm_head;
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t n = std::min(chunk, N - begin);
    const Tensor logits = acts_.logits.slice(0, n), rows = hidden.slice(begin, n);
    if (in_fp8(gradients)) {
      const ScaledTensor& in = acts_.fp8.hidden;
      linear_forward(ctx_, logits, ScaledTensor{in.values.reshape({N, C}).slice(begin, n), in.scale},
                     acts_.fp8.head_weight, {});
    } else {
      linear_forward(ctx_, logits, rows, params_.head(), {});
    }
    cross_entropy(ctx_, acts_.losses.slice(begin, n), acts_.correct.slice(begin, n), logits, targets.slice(begin, n),
                  config_.vocab_size, gradients ? batch.gradient_scale : 0.0f);
    if (!gradients) continue;
    linear_dgrad(ctx_, acts_.dbranch.reshape({N, C}).slice(begin, n), logits, params_.head());
    linear_wgrad(ctx_, dhead, logits, rows);
  }
  add_losses(ctx_, acts_.loss_sums, acts_.losses, acts_.correct, targets, row_tokens(batch));
}

int64_t Gpt::row_tokens(const Batch& batch) const {
  return (batch.rows > 0 ? batch.rows : batch_) * length_;
}

LossSums Gpt::take_losses() {
  double sums[3];
  ctx_.copy(Tensor(sums, DType::kF64, Device::kCpu, {3}), acts_.loss_sums);
  ctx_.zero(acts_.loss_sums);
  return {sums[0], sums[1], static_cast<int64_t>(sums[2])};
}

void Gpt::backward(const Batch& batch) {
  const auto ready = [&](size_t group) {
    if (observer_ != nullptr) observer_->gradients_ready(group);
  };
  const auto before_attention = [&] {
    if (observer_ != nullptr) observer_->before_attention_backward();
  };
  layernorm_backward(ctx_, acts_.dresidual, grads_.ln_f_weight, grads_.ln_f_bias, grads_.blocks.back().mlp_proj_bias,
                     {}, acts_.dbranch, acts_.residual_out, params_.ln_f_weight, acts_.ln_f_mean, acts_.ln_f_rstd,
                     acts_.layernorm_scratch);
  ready(acts_.blocks.size() + 1);
  for (size_t l = acts_.blocks.size(); l-- > 0;) {
    const BlockFp8* fp8 = in_fp8(true) ? &acts_.fp8.blocks[l] : nullptr;
    if (recompute_ != Recompute::kNone && l + 1 < acts_.blocks.size()) {  // what forward computed last is still there
      const auto layer = static_cast<int64_t>(l);
      block_recompute(ctx_, config_, layer, params_.blocks[l], acts_.blocks[l], acts_, draw(batch, layer, false), fp8,
                      recompute_);
    }
    block_backward(ctx_, config_, params_.blocks[l], grads_.blocks[l],
                   l > 0 ? grads_.blocks[l - 1].mlp_proj_bias : Tensor(), acts_.blocks[l], acts_, fp8,
                   before_attention);
    ready(l + 1);
  }
  embedding_backward(ctx_, grads_.wte, grads_.wpe, acts_.dresidual, batch.ids, acts_.embedding_scratch);
  ready(0);
}

void Gpt::logits(Tensor out, int64_t begin) {
  const Tensor hidden = acts_.hidden.reshape({acts_.hidden.rows(), config_.n_embd});
  linear_forward(ctx_, out, hidden.slice(begin, out.size(0)), params_.head(), {});
}

std::string Gpt::first_non_finite() const {
  // compute_params in bf16 are not finite where master_params are not, or are just too large for f32's largest.
  for (const ParameterEntry& entry : table().entries)
    if (!finite(ctx_, store_.compute_params().slice(entry.offset, entry.size))) return "parameter " + entry.name;
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
    // What blocks share is that of the last one.
    const auto is_its_own = [&](const Tensor& tensor) {
      if (recompute_ == Recompute::kNone || l + 1 == acts_.blocks.size()) return true;
      if (recompute_ == Recompute::kGelu) return &tensor != &a.gelu;
      if (recompute_ == Recompute::kNorms) return &tensor != &a.gelu && &tensor != &a.ln_1 && &tensor != &a.ln_2;
      return &tensor == &a.residual_in || &tensor == &a.attention;
    };
    for (const auto& output : outputs)
      if (is_its_own(output.tensor) && !finite(ctx_, output.tensor)) return concat("h.", l, " ", output.name);
  }
  if (!finite(ctx_, acts_.residual_out)) return "residual stream out";
  if (!finite(ctx_, acts_.hidden)) return "ln_f output";
  if (!finite(ctx_, acts_.losses)) return "loss";
  if (!training()) return {};
  for (size_t i = table().entries.size(); i-- > 0;) {  // backward runs from the last layer to the first
    const ParameterEntry& entry = table().entries[i];
    if (!finite(ctx_, store_.gradients().slice(entry.offset, entry.size))) return "gradient of " + entry.name;
  }
  return {};
}

}  // namespace scfa

#include "train/optimizer.h"

#include <vector>

namespace scfa {

namespace {

struct Plan {
  Tensor m, v, norm, decays;
};

Plan make_plan(Arena& arena, const ParameterTable& table) {
  const auto moment = [&](const char* name) { return arena.take(name, DType::kF32, {table.length}); };
  return {moment("first moment"), moment("second moment"), arena.take("gradient norm", DType::kF32, {1}),
          arena.take("decay mask", DType::kU16, {table.length / kDecayBlock})};
}

}  // namespace

int64_t Optimizer::memory(const ParameterTable& table) {
  Arena arena(Device::kCpu);
  make_plan(arena, table);
  return arena.used();
}

Optimizer::Optimizer(Context& ctx, const ParameterTable& table, const OptimizerConfig& config)
    : ctx_(ctx), config_(config), arena_(ctx.device(), memory(table)) {
  static_assert(kDecayBlock == kParameterAlignment);  // so that no block has two tensors
  const Plan plan = make_plan(arena_, table);
  m_ = plan.m;
  v_ = plan.v;
  norm_ = plan.norm;
  decays_ = plan.decays;
  ctx_.zero(m_);
  ctx_.zero(v_);
  ctx_.zero(norm_);
  std::vector<uint16_t> mask(static_cast<size_t>(decays_.numel()), 0);
  for (const ParameterEntry& entry : table.entries)
    if (entry.group == DecayGroup::kMatrix || (entry.group == DecayGroup::kEmbedding && config.decay_embeddings))
      for (int64_t i = entry.offset; i < entry.offset + entry.size; i += kDecayBlock)
        mask[static_cast<size_t>(i / kDecayBlock)] = 1;
  ctx_.copy(decays_, ConstTensor(mask.data(), DType::kU16, Device::kCpu, {decays_.numel()}));
  ctx_.synchronize();  // the mask on the host goes away
}

void Optimizer::measure(const Gpt& model) {
  gradient_norm(ctx_, norm_, model.gradients());
}

float Optimizer::norm() const {
  float value = 0;
  ctx_.copy(Tensor(&value, DType::kF32, Device::kCpu, {1}), norm_);
  return value;
}

void Optimizer::update(const Gpt& model, double lr, int64_t step) {
  const AdamW settings{.lr = static_cast<float>(lr),
                       .beta1 = static_cast<float>(config_.beta1),
                       .beta2 = static_cast<float>(config_.beta2),
                       .eps = static_cast<float>(config_.eps),
                       .weight_decay = static_cast<float>(config_.weight_decay),
                       .step = step,
                       .max_norm = static_cast<float>(config_.clip)};
  adamw(ctx_, model.values(), m_, v_, model.weights(), model.gradients(), decays_, norm_, settings);
}

}  // namespace scfa

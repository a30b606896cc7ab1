#include "train/optimizer.h"

#include <cstring>

namespace scfa {

Optimizer::Optimizer(Context& ctx, const ParameterTable& table, const OptimizerConfig& config)
    : ctx_(ctx), config_(config), arena_(ctx.device(), memory(table) + 1024) {
  m_ = arena_.take("first moment", DType::kF32, {table.length});
  v_ = arena_.take("second moment", DType::kF32, {table.length});
  norm_ = arena_.take("gradient norm", DType::kF32, {1});
  std::memset(m_.data, 0, static_cast<size_t>(m_.bytes()));
  std::memset(v_.data, 0, static_cast<size_t>(v_.bytes()));
  for (size_t i = 0; i < table.entries.size(); ++i) {
    const ParameterEntry& entry = table.entries[i];
    const int64_t end = i + 1 < table.entries.size() ? table.entries[i + 1].offset : table.length;
    const bool decays =
        entry.group == DecayGroup::kMatrix || (entry.group == DecayGroup::kEmbedding && config.decay_embeddings);
    if (!ranges_.empty() && ranges_.back().decays == decays)
      ranges_.back().size += end - entry.offset;
    else
      ranges_.push_back({entry.offset, end - entry.offset, decays});
  }
}

float Optimizer::norm(const Gpt& model) {
  gradient_norm(ctx_, norm_, model.gradients());
  return norm_.as<float>()[0];
}

void Optimizer::update(const Gpt& model, double lr, int64_t step) {
  for (const Range& range : ranges_) {
    const AdamW settings{.lr = static_cast<float>(lr),
                         .beta1 = static_cast<float>(config_.beta1),
                         .beta2 = static_cast<float>(config_.beta2),
                         .eps = static_cast<float>(config_.eps),
                         .weight_decay = range.decays ? static_cast<float>(config_.weight_decay) : 0.0f,
                         .step = step,
                         .max_norm = static_cast<float>(config_.clip)};
    adamw(ctx_, model.values().slice(range.begin, range.size), m_.slice(range.begin, range.size),
          v_.slice(range.begin, range.size), model.gradients().slice(range.begin, range.size), norm_, settings);
  }
}

}  // namespace scfa

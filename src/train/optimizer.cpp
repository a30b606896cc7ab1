#include "train/optimizer.h"

#include <vector>

namespace scfa {

namespace {

struct Plan {
  Tensor square_sums, norm, factors, decays;
};

Plan make_plan(Arena& arena, const ParameterTable& table) {
  return {arena.take("gradient norm", DType::kF64, {static_cast<int64_t>(table.groups.size())}),
          arena.take("gradient norm", DType::kF32, {1}), arena.take("AdamW's factors", DType::kF32, {kAdamWFactors}),
          arena.take("decay mask", DType::kU16, {table.length / kDecayBlock})};
}

}  // namespace

int64_t Optimizer::memory(const ParameterTable& table) {
  Arena arena(Device::kCpu);
  make_plan(arena, table);
  return arena.used();
}

Optimizer::Optimizer(ParameterStore& store, const OptimizerConfig& config)
    : store_(store),
      ctx_(store.context()),
      settings_{.lr = 0,
                .beta1 = static_cast<float>(config.beta1),
                .beta2 = static_cast<float>(config.beta2),
                .eps = static_cast<float>(config.eps),
                .weight_decay = static_cast<float>(config.weight_decay),
                .step = 0,
                .max_norm = static_cast<float>(config.clip)},
      arena_(ctx_.device(), memory(store.table())) {
  static_assert(kDecayBlock == kParameterAlignment &&
                kDecayBlock == kPartAlignment);  // so that no block has two tensors
  const Plan plan = make_plan(arena_, store.table());
  // A sum for each bucket, whether this rank has a shard of it or not: all ranks' are added up.
  square_sums_ = plan.square_sums.slice(0, store.sharded() ? static_cast<int64_t>(store.buckets().size()) : 1);
  norm_ = plan.norm;
  factors_ = plan.factors;
  decays_ = plan.decays;
  ctx_.zero(norm_);
  std::vector<uint16_t> mask(static_cast<size_t>(decays_.numel()), 0);
  for (const ParameterEntry& entry : store.table().entries)
    if (entry.group == DecayGroup::kMatrix || (entry.group == DecayGroup::kEmbedding && config.decay_embeddings))
      for (int64_t i = entry.offset; i < entry.offset + entry.size; i += kDecayBlock)
        mask[static_cast<size_t>(i / kDecayBlock)] = 1;
  ctx_.copy(decays_, ConstTensor(mask.data(), DType::kU16, Device::kCpu, {decays_.numel()}));
  ctx_.synchronize();  // the mask on the host goes away
}

void Optimizer::measure(const std::function<void(const Tensor&)>& all_reduce) {
  if (store_.shards().size() < static_cast<size_t>(square_sums_.numel())) ctx_.zero(square_sums_);
  int64_t i = 0;
  for (const ParameterStore::Shard& shard : store_.shards())
    square_sum(ctx_, square_sums_.slice(i++, 1), shard.gradients);
  if (all_reduce && store_.sharded()) all_reduce(square_sums_);
  gradient_norm(ctx_, norm_, square_sums_);
}

void Optimizer::begin_step(double lr, int64_t step) {
  AdamW settings = settings_;
  settings.lr = static_cast<float>(lr), settings.step = step;
  write_adamw_factors(ctx_, factors_, settings);
}

void Optimizer::update() {
  for (const ParameterStore::Shard& shard : store_.shards()) {
    const Tensor decays = decays_.slice(shard.range.begin / kDecayBlock, shard.range.size() / kDecayBlock);
    adamw(ctx_, shard.master_params, shard.first_moment, shard.second_moment, shard.compute_params, shard.gradients,
          decays, norm_, settings_, factors_);
  }
}

}  // namespace scfa

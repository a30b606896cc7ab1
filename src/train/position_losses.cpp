#include "train/position_losses.h"

namespace scfa {

TokenLosses::TokenLosses(Gpt& model, int64_t sequences, int64_t T)
    : length_(T), loss_(static_cast<size_t>(sequences * T)), correct_(loss_.size()) {
  const int64_t n = sequences * T;
  const Activations& acts = model.activations();
  model.context().copy(Tensor(loss_.data(), DType::kF32, Device::kCpu, {n}), acts.losses.slice(0, n));
  model.context().copy(Tensor(correct_.data(), DType::kF32, Device::kCpu, {n}), acts.correct.slice(0, n));
}

LossSums PositionLosses::over(int64_t first, int64_t last) const {
  LossSums all;
  for (int64_t t = first; t <= last; ++t) all += sums_.at(static_cast<size_t>(t));
  return all;
}

}  // namespace scfa

// AdamW over the parameters of a store that this rank updates, weight decay by group.
#pragma once
#include <functional>

#include "kernels/adamw.h"
#include "model/parameter_store.h"
#include "train/config.h"

namespace scfa {

class Optimizer {
 public:
  // The store, one for training, must outlive it.
  Optimizer(ParameterStore& store, const OptimizerConfig& config);

  // Bytes beside what the store holds.
  static int64_t memory(const ParameterTable& table);

  // An update is begin_step(), then, when the gradients are there, measure() and update(). On a GPU all only launch
  // work, and what the last two launch is the same in every step. Nothing changes where the norm is not finite, nor in
  // any later update.
  //   step        counts from 1
  //   all_reduce  adds up an f64 tensor over the ranks, where each has gradients of its own shards only
  void begin_step(double lr, int64_t step);
  void measure(const std::function<void(const Tensor&)>& all_reduce = {});
  void update();

  // The global norm that measure() found, before clipping: (1) f32.
  const Tensor& norm() const { return norm_; }

 private:
  ParameterStore& store_;
  Context& ctx_;
  const AdamW settings_;  // without learning rate and step, which are in the factors
  Arena arena_;
  Tensor square_sums_, norm_, factors_, decays_;
};

}  // namespace scfa

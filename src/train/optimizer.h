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

  // One update from the gradients, which measure() looked at before. step counts from 1. Nothing changes where the norm
  // is not finite. On a GPU both only launch work. all_reduce: adds up an f64 tensor over the ranks, where each has
  // gradients of its own shards only.
  void measure(const std::function<void(const Tensor&)>& all_reduce = {});
  void update(double lr, int64_t step);

  // The global norm that measure() found, before clipping; waits for the device.
  float norm() const;

 private:
  ParameterStore& store_;
  Context& ctx_;
  OptimizerConfig config_;
  Arena arena_;
  Tensor square_sums_, norm_, decays_;
};

}  // namespace scfa

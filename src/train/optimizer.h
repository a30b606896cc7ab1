// AdamW over the flat parameters of a model, weight decay by group.
#pragma once
#include "kernels/adamw.h"
#include "model/gpt.h"
#include "train/config.h"

namespace scfa {

class Optimizer {
 public:
  Optimizer(Context& ctx, const ParameterTable& table, const OptimizerConfig& config);

  static int64_t memory(const ParameterTable& table);

  // One update from the model's gradients, which measure() looked at before. step counts from 1. Nothing changes where
  // the norm is not finite. On a GPU both only launch work.
  void measure(const Gpt& model);
  void update(const Gpt& model, double lr, int64_t step);

  // The global norm that measure() found, before clipping; waits for the device.
  float norm() const;

  Tensor first_moment() const { return m_; }  // flat, laid out by the table
  Tensor second_moment() const { return v_; }

 private:
  Context& ctx_;
  OptimizerConfig config_;
  Arena arena_;
  Tensor m_, v_, norm_, decays_;
};

}  // namespace scfa

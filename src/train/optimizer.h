// AdamW over the flat parameters of a model, weight decay by group.
#pragma once
#include "kernels/adamw.h"
#include "model/gpt.h"
#include "train/config.h"

namespace scfa {

class Optimizer {
 public:
  Optimizer(Context& ctx, const ParameterTable& table, const OptimizerConfig& config);

  static int64_t memory(const ParameterTable& table) { return 2 * table.length * static_cast<int64_t>(sizeof(float)); }

  // The global norm of the gradients as they are, before clipping.
  float norm(const Gpt& model);
  // One update from the model's gradients; call norm() first. step counts from 1.
  void update(const Gpt& model, double lr, int64_t step);

  Tensor first_moment() const { return m_; }  // flat, laid out by the table
  Tensor second_moment() const { return v_; }

 private:
  struct Range {  // neighbours in the flat buffer that share a decay
    int64_t begin, size;
    bool decays;
  };
  Context& ctx_;
  OptimizerConfig config_;
  Arena arena_;
  Tensor m_, v_, norm_;
  std::vector<Range> ranges_;
};

}  // namespace scfa

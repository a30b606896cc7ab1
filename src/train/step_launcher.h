// Launches the work of a step of one rank, on a GPU as CUDA graphs: a micro-batch's forward and backward pass, with the
// zeroing of gradients before the first one and the update behind the last one. What changes from step to step lies on
// the device: tokens, the step that draws depend on, AdamW's factors.
#pragma once
#include <map>
#include <tuple>

#include "model/gpt.h"
#include "train/optimizer.h"

namespace scfa {

class StepLauncher {
 public:
  // Both must outlive it. graphs: a micro-batch at the addresses of an earlier one is launched as a graph, captured the
  // second time: the same work and the same bits, launched in a hundredth of the time. A graph's launch does not call
  // the model's observer. On a CPU and while times of ops are collected there are no graphs.
  StepLauncher(Gpt& model, Optimizer& optimizer, bool graphs);

  // first, last: whether it is the step's first or last micro-batch. Call Optimizer::begin_step() before the last one.
  // Throws Error if a graph cannot be made.
  void launch(const Batch& batch, bool first, bool last);

  bool uses_graphs() const { return graphs_; }
  int64_t graph_launches() const { return graph_launches_; }

 private:
  // A graph is reused only for equal keys: addresses of ids, targets, samples and step; rows; gradient_scale; stage;
  // first; last.
  using Key = std::tuple<const void*, const void*, const void*, const void*, int64_t, float, int64_t, bool, bool>;
  Key key_of(const Batch& batch, bool first, bool last) const;
  void launch_ops(const Batch& batch, bool first, bool last);

  static constexpr size_t kMostGraphs = 16;

  Gpt& model_;
  Optimizer& optimizer_;
  bool graphs_;
  std::map<Key, gpu::OwnedGraph> captured_;  // null: launched once, op by op
  int64_t graph_launches_ = 0;
};

}  // namespace scfa

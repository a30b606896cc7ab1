#include "train/step_launcher.h"

namespace scfa {

StepLauncher::StepLauncher(Gpt& model, Optimizer& optimizer, bool graphs)
    : model_(model), optimizer_(optimizer), graphs_(graphs && model.context().on_gpu() && gpu::can_capture()) {}

StepLauncher::Key StepLauncher::key_of(const Batch& batch, bool first, bool last) const {
  return {batch.ids.data,
          batch.targets.data,
          batch.samples.data,
          batch.step.memory,
          batch.rows,
          batch.gradient_scale,
          model_.stage(),
          first,
          last};
}

void StepLauncher::launch_ops(const Batch& batch, bool first, bool last) {
  if (first) model_.zero_gradients();
  model_.forward(batch, true);
  model_.backward(batch);
  if (!last) return;
  optimizer_.measure();
  optimizer_.update();
  model_.update_bucket_biases();
}

void StepLauncher::launch(const Batch& batch, bool first, bool last) {
  Context& ctx = model_.context();
  // Without a place for the step, or with segments from outside, every batch is another piece of work.
  if (!graphs_ || ctx.profiler().collecting() || batch.step.memory == nullptr || batch.q_segments)
    return launch_ops(batch, first, last);
  const Key key = key_of(batch, first, last);
  auto found = captured_.find(key);
  if (found == captured_.end()) {  // also makes what cannot be made while work is captured: loaded kernels, recipes
    if (captured_.size() >= kMostGraphs) captured_.clear();
    captured_.try_emplace(key);
    return launch_ops(batch, first, last);
  }
  gpu::OwnedGraph& graph = found->second;
  if (!graph) try {
      graph = gpu::capture(ctx.stream(), [&] { launch_ops(batch, first, last); });
    } catch (const Error& error) {
      fail(error.what(), "; train.graph false does without CUDA graphs");
    }
  gpu::launch(graph, ctx.stream());
  ++graph_launches_;
}

}  // namespace scfa

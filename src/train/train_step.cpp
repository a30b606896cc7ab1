#include "train/train_step.h"

#include <cmath>

namespace scfa {

TrainStep::TrainStep(RunControl& control, const Config& config, TrainingMemory& memory)
    : control_(control),
      config_(config),
      memory_(memory),
      accumulation_(config.accumulation(control.world.size())),
      alone_(control.world.size() == 1),
      profiler_(memory.store.context().profiler(), *memory.replicas, accumulation_) {
  memory.model.use_graphs(alone_ && config.train.graph);
}

std::optional<StepResult> TrainStep::run(int64_t step, bool profiled) {
  const double waited_before = memory_.loader.data_wait_seconds();
  const Watched watched(control_.watchdog, Work::kStep, concat("step ", step + 1));
  control_.world.set_place(concat("step ", step + 1));
  StepResult result;
  result.lr = learning_rate(config_.schedule, step, config_.train.steps);
  profiler_.begin_step(profiled);
  const bool whole = accumulate_gradients(step);
  if (whole) {
    memory_.optimizer.measure(
        [this](const Tensor& sums) { memory_.replicas->all_reduce(sums, "all-reduce of the gradient norm"); });
    memory_.optimizer.update(result.lr, step + 1);
    if (const Tensor loads = memory_.store.bucket_loads(); loads) {
      memory_.replicas->all_reduce(loads, "all-reduce of the loads of buckets");
      memory_.model.update_bucket_biases();
    }
    memory_.replicas->finish_step();
  }
  profiler_.work_launched();
  const bool on_gpu = memory_.store.context().on_gpu();
  const World::Doing doing(control_.world, on_gpu ? "waiting for the GPU" : "adding up losses");
  result.sums = memory_.model.take_losses();  // here the host waits for the device
  if (!whole) return {};
  result.grad_norm = static_cast<double>(memory_.optimizer.norm());
  result.data_wait = memory_.loader.data_wait_seconds() - waited_before;
  return result;
}

// False if a signal came before a micro-batch.
bool TrainStep::accumulate_gradients(int64_t step) {
  memory_.model.zero_gradients();
  for (int64_t micro = 0; micro < accumulation_; ++micro) {
    if (micro > 0 && control_.agreement.stop()) return false;
    // On a CPU work has been done when a call returns, so each micro-batch is a sign of life.
    if (micro > 0 && !memory_.store.context().on_gpu())
      control_.watchdog.begin(Work::kStep, concat("micro-batch ", micro + 1, " of step ", step + 1));
    const bool last = micro + 1 == accumulation_;
    const Batch batch = next_batch(step, micro);
    profiler_.begin_micro_batch(last);
    if (alone_) {
      memory_.model.forward_backward(batch);
    } else {
      memory_.model.forward(batch, true);
      if (last) memory_.replicas->begin_step();
      memory_.model.backward(batch);
    }
  }
  memory_.replicas->finish_gradients();
  return true;
}

Batch TrainStep::next_batch(int64_t step, int64_t micro) {
  const TokenBatch& tokens = memory_.loader.batch(step, micro);
  Batch batch = memory_.feeder.put(tokens.inputs, tokens.targets, tokens.samples, static_cast<uint32_t>(step));
  batch.gradient_scale =
      1.0f / static_cast<float>(static_cast<double>(config_.tokens_per_step()) * memory_.loader.set().counted_share());
  return batch;
}

void TrainStep::find_bad_micro_batch(int64_t step) {
  for (int64_t micro = 0; micro < accumulation_; ++micro) {
    // In fp8 with gradients, as it was computed; what they add up to does not matter any more.
    memory_.model.forward(next_batch(step, micro), memory_.model.precision() == Precision::kFp8);
    if (!std::isfinite(memory_.model.take_losses().loss)) return;
  }
}

}  // namespace scfa

#include "train/train_step.h"

#include <cmath>
#include <utility>

namespace scfa {

TrainStep::TrainStep(RunControl& control, const Config& config, TrainingMemory& memory)
    : control_(control),
      config_(config),
      memory_(memory),
      accumulation_(config.accumulation(control.world.size())),
      alone_(control.world.size() == 1),
      launcher_(memory.model, memory.optimizer, config.train.graph),
      outputs_(memory.store.context()),
      profiler_(memory.store.context().profiler(), *memory.replicas, accumulation_) {}

bool TrainStep::launch(int64_t step, bool profiled) {
  const Watched watched(control_.watchdog, Work::kStep, concat("step ", step + 1));
  control_.world.set_place(concat("step ", step + 1));
  outputs_.begin();
  memory_.optimizer.begin_step(learning_rate(config_.schedule, step, config_.train.steps), step + 1);
  profiler_.begin_step(profiled);
  const bool whole = launch_micro_batches(step);
  if (whole && !alone_) update_over_ranks();
  profiler_.work_launched();
  if (!whole) {
    memory_.store.context().zero(memory_.model.loss_sums());
    return false;
  }
  outputs_.send(memory_.model.loss_sums(), memory_.optimizer.norm());
  launched_ = step + 1;
  return true;
}

StepResult TrainStep::finish() {
  const int64_t step = launched_ - in_flight() + 1;
  const Watched watched(control_.watchdog, Work::kStep, concat("step ", step));
  const World::Doing doing(control_.world, "waiting for the device");
  const StepOutput output = outputs_.receive();
  const double waited = memory_.loader.data_wait_seconds();
  return {.step = step,
          .sums = output.sums,
          .lr = learning_rate(config_.schedule, step - 1, config_.train.steps),
          .grad_norm = output.grad_norm,
          .seconds = output.seconds,
          .data_wait = waited - std::exchange(waited_, waited)};
}

// With the update, if there is one rank. False if a signal came before a micro-batch.
bool TrainStep::launch_micro_batches(int64_t step) {
  if (!alone_) memory_.model.zero_gradients();
  for (int64_t micro = 0; micro < accumulation_; ++micro) {
    if (micro > 0 && control_.agreement.stop()) return false;
    // On a CPU work has been done when a call returns, so each micro-batch is a sign of life.
    if (micro > 0 && !memory_.store.context().on_gpu())
      control_.watchdog.begin(Work::kStep, concat("micro-batch ", micro + 1, " of step ", step + 1));
    const bool last = micro + 1 == accumulation_;
    const Batch batch = next_batch(step, micro);
    profiler_.begin_micro_batch(last);
    if (alone_) {
      launcher_.launch(batch, micro == 0, last);
    } else {
      memory_.model.forward(batch, true);
      if (last) memory_.replicas->begin_step();
      memory_.model.backward(batch);
    }
  }
  memory_.replicas->finish_gradients();
  return true;
}

void TrainStep::update_over_ranks() {
  memory_.optimizer.measure(
      [this](const Tensor& sums) { memory_.replicas->all_reduce(sums, "all-reduce of the gradient norm"); });
  memory_.optimizer.update();
  if (const Tensor loads = memory_.store.bucket_loads(); loads) {
    memory_.replicas->all_reduce(loads, "all-reduce of the loads of buckets");
    memory_.model.update_bucket_biases();
  }
  memory_.replicas->finish_step();
}

Batch TrainStep::next_batch(int64_t step, int64_t micro) {
  const TokenBatch& tokens = memory_.loader.batch(step, micro);
  Batch batch = memory_.feeder.put(tokens.inputs, tokens.targets, tokens.samples, static_cast<uint32_t>(step));
  batch.gradient_scale =
      1.0f / static_cast<float>(static_cast<double>(config_.tokens_per_step()) * memory_.loader.set().counted_share());
  return batch;
}

void TrainStep::repeat(const StepResult& failed) {
  Gpt& model = memory_.model;
  const int64_t step = failed.step - 1;
  if (!std::isfinite(failed.sums.loss)) {
    for (int64_t micro = 0; micro < accumulation_; ++micro) {
      // In fp8 with gradients, as it was computed; what they add up to does not matter any more.
      model.forward(next_batch(step, micro), model.precision() == Precision::kFp8);
      if (!std::isfinite(model.take_losses().loss)) return;
    }
  } else if (in_flight() > 0) {  // the gradients that are there are those of a later step
    model.zero_gradients();
    for (int64_t micro = 0; micro < accumulation_; ++micro) {
      const Batch batch = next_batch(step, micro);
      model.forward(batch, true);
      model.backward(batch);
    }
  }
}

}  // namespace scfa

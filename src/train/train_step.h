// One step of training: gradients of all micro-batches of this rank, summed over the ranks, and the update.
#pragma once
#include <optional>

#include "train/run_control.h"
#include "train/step_profile.h"
#include "train/training_memory.h"

namespace scfa {

struct StepResult {
  LossSums sums;  // of this rank
  double lr = 0;
  double grad_norm = 0;  // of all ranks, before clipping; not finite: the update was not applied
  double data_wait = 0;  // seconds
};

class TrainStep {
 public:
  // All must outlive it.
  TrainStep(RunControl& control, const Config& config, TrainingMemory& memory);

  // Makes the update after `step` and waits until the device has done it. profiled: take_times() is to have something.
  // Nothing if a signal came between two micro-batches: their gradients are dropped, and the step has not been. The
  // same on all ranks.
  std::optional<StepResult> run(int64_t step, bool profiled);

  std::optional<StepTimes> take_times() { return profiler_.end_step(); }  // of the step that run() has made last

  // Runs the micro-batches of the step after `step` forward, one at a time, until the loss of one is not finite, so
  // that its activations are there to look at.
  void find_bad_micro_batch(int64_t step);

 private:
  bool accumulate_gradients(int64_t step);
  Batch next_batch(int64_t step, int64_t micro);

  RunControl& control_;
  const Config& config_;
  TrainingMemory& memory_;
  int64_t accumulation_;  // micro-batches
  bool alone_;            // one rank
  StepProfiler profiler_;
};

}  // namespace scfa

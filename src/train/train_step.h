// Steps of training: gradients of all micro-batches of this rank, summed over the ranks, and the update.
#pragma once
#include <optional>

#include "train/run_control.h"
#include "train/step_launcher.h"
#include "train/step_outputs.h"
#include "train/step_profile.h"
#include "train/training_memory.h"

namespace scfa {

struct StepResult {
  int64_t step = 0;  // updates done with it
  LossSums sums;     // of this rank
  double lr = 0;
  double grad_norm = 0;  // of all ranks, before clipping; not finite: neither this update was applied nor a later one
  double seconds = 0;    // that the device took, from its launch or from the end of the step before
  double data_wait = 0;  // seconds that the host has waited for data since the step before was finished
};

class TrainStep {
 public:
  // All must outlive it.
  TrainStep(RunControl& control, const Config& config, TrainingMemory& memory);

  // Launches the step after `step`. profiled: its ops are timed, so no other step may be in flight. False if a signal
  // came between two micro-batches: the gradients are dropped, and nothing is updated. The same on all ranks.
  bool launch(int64_t step, bool profiled);

  // Waits until the device has done the step that was launched first, and has not been finished.
  StepResult finish();
  std::optional<StepTimes> take_times() { return profiler_.end_step(); }  // of that step, if it was profiled

  int64_t in_flight() const { return outputs_.in_flight(); }  // launched and not finished
  // Whether one step more may be launched before finish(): then a GPU does not wait for the host between steps. Ranks
  // that exchange losses after each step do not.
  bool runs_ahead() const { return alone_ && launcher_.uses_graphs(); }

  // After a result that is not finite, of the last step launched or the one before: runs its micro-batches again, so
  // that the activations or gradients at fault are there to look at. Parameters are as they were, unless the norm was
  // finite; learned biases of buckets may have moved.
  void repeat(const StepResult& failed);

 private:
  bool launch_micro_batches(int64_t step);
  void update_over_ranks();
  Batch next_batch(int64_t step, int64_t micro);

  RunControl& control_;
  const Config& config_;
  TrainingMemory& memory_;
  int64_t accumulation_;  // micro-batches
  bool alone_;            // one rank
  StepLauncher launcher_;
  StepOutputs outputs_;
  StepProfiler profiler_;
  int64_t launched_ = 0;  // the last step that was
  double waited_ = 0;     // for data, when the last step was finished
};

}  // namespace scfa

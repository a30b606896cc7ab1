// What is due at which step of a run. Only values go in, so the answers are the same on all ranks that give the same.
#pragma once
#include <cstdint>

#include "train/config.h"
#include "train/training_state.h"

namespace scfa {

struct LastSave {
  int64_t step = 0;        // that it holds
  double seconds_ago = 0;  // or since the run started, if it has not saved yet
};

// Steps count updates done: 0 is the model as it was initialised.
class StepPolicy {
 public:
  explicit StepPolicy(const Config& config);

  // Whether another step follows. stop: a signal asked to end.
  bool trains(int64_t step, bool stop) const { return step < steps_ && !stop; }

  // Before the next step, unless this one has been evaluated. The last step is evaluated in any case.
  bool evaluates(const TrainingState& state) const { return due(state.step, eval_every_) && !state.validation_loss; }

  // By steps, by time, or because a signal asked for it; never twice at one step. The last step is saved in any case.
  bool saves(int64_t step, const LastSave& last, bool asked) const;

  bool profiles(int64_t step) const { return due(step, log_every_); }  // takes times by op
  bool compares_replicas(int64_t step) const { return due(step, compare_every_); }
  // A line on the console; in any case for the first step of this process, after `started_at`, and for the last.
  bool prints(int64_t step, int64_t started_at) const;

  int64_t steps() const { return steps_; }
  int64_t steps_after(int64_t step) const { return steps_ - step; }
  int64_t evaluations_after(int64_t step) const;  // the one at the end included

 private:
  static bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

  int64_t steps_, eval_every_, log_every_, compare_every_, save_every_;
  double save_seconds_;  // 0: not by time
};

}  // namespace scfa

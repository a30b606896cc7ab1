#include "train/step_policy.h"

namespace scfa {

StepPolicy::StepPolicy(const Config& config)
    : steps_(config.train.steps),
      eval_every_(config.eval.every),
      log_every_(config.log.every),
      compare_every_(config.train.check_replicas),
      save_every_(config.checkpoint.every),
      save_seconds_(config.checkpoint.minutes * 60) {}

bool StepPolicy::saves(int64_t step, const LastSave& last, bool asked) const {
  const bool late = save_seconds_ > 0 && last.seconds_ago >= save_seconds_;
  return step != last.step && (asked || late || due(step, save_every_));
}

bool StepPolicy::prints(int64_t step, int64_t started_at) const {
  return due(step, log_every_) || step == steps_ || step == started_at + 1;
}

int64_t StepPolicy::evaluations_after(int64_t step) const {
  return 1 + (eval_every_ > 0 ? steps_after(step) / eval_every_ : 0);
}

}  // namespace scfa

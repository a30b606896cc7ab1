#include "train/step_profile.h"

namespace scfa {

StepTimes times_of_step(const ProfileTimes& times, int64_t micro_batches) {
  StepTimes step;
  for (const auto& [name, time] : times) {
    const bool once = time.category == Category::kOptimizer || time.category == Category::kCommunication;
    const double seconds = once ? time.seconds : time.seconds * static_cast<double>(micro_batches);
    step.seconds[name] = seconds;
    if (time.category == Category::kAttention) step.attention += seconds;
  }
  return step;
}

void StepProfiler::begin_step(bool on) {
  on_ = on;
  replicas_.measure_times(on);
}

void StepProfiler::begin_micro_batch(bool last) {
  profiler_.collect(on_ && last);
}

void StepProfiler::work_launched() {
  profiler_.collect(false);
}

std::optional<StepTimes> StepProfiler::end_step() {
  replicas_.measure_times(false);
  if (!on_) return {};
  return times_of_step(profiler_.take(), micro_batches_);
}

}  // namespace scfa

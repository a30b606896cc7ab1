// Times of a step by op: which part of it is timed, and what the times of that part say of the whole.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "core/profiler.h"
#include "train/replicas.h"

namespace scfa {

struct StepTimes {
  std::map<std::string, double> seconds;  // by op, and by what ranks exchange (train/comm_stream.h)
  double attention = 0;                   // seconds of these that are attention's
};

// times: of the ops of one micro-batch, which stands for all, and of what comes once a step: the optimizer's ops and
// what ranks exchange.
StepTimes times_of_step(const ProfileTimes& times, int64_t micro_batches);

// Times a step's last micro-batch and its update.
class StepProfiler {
 public:
  StepProfiler(Profiler& profiler, Replicas& replicas, int64_t micro_batches)
      : profiler_(profiler), replicas_(replicas), micro_batches_(micro_batches) {}

  void begin_step(bool on);           // off: nothing is timed in it
  void begin_micro_batch(bool last);  // its work is launched next
  void work_launched();               // all of the step's
  // Of the step, once the device has done it; nothing if it was not timed.
  std::optional<StepTimes> end_step();

 private:
  Profiler& profiler_;
  Replicas& replicas_;
  int64_t micro_batches_;
  bool on_ = false;
};

}  // namespace scfa

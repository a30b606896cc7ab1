// When a run is saved, and what then happens to its older checkpoints.
#pragma once
#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/config.h"
#include "train/console.h"
#include "train/watchdog.h"

namespace scfa {

class Saver {
 public:
  // run: its folder.
  Saver(std::string run, const CheckpointConfig& config, Console& console, Watchdog& watchdog);

  // The run is after `step`, which `checkpoint` holds; empty: nothing holds it, and nothing needs to.
  void hold(int64_t step, const std::string& checkpoint);

  // Removes older checkpoints than are to be kept, and what saves that were killed left.
  void prune();

  // Whether to save after a step: by steps, by time, or because a signal asked for it.
  bool due(int64_t step, bool asked);
  bool is_saved(int64_t step) const { return step == saved_step_; }
  void save(const CheckpointState& state, const ParameterTable& table, const HostState& values);

  const std::string& checkpoint() const { return checkpoint_; }  // the last one; empty if there is none

 private:
  void warn(const std::vector<std::string>& notes);
  std::string run_, checkpoint_;
  CheckpointConfig config_;
  Console& console_;
  Watchdog& watchdog_;
  int64_t saved_step_ = 0;
  std::chrono::steady_clock::time_point saved_at_;
  std::set<std::string> warned_;
};

}  // namespace scfa

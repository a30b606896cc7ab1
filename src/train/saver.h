// Saves a run, all ranks together, and removes its older checkpoints. When to save: train/step_policy.h.
#pragma once
#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/config.h"
#include "train/run_control.h"
#include "train/step_policy.h"
#include "train/training_memory.h"

namespace scfa {

// Every rank calls mark_saved() and save() at the same time; rank 0 writes.
class Saver {
 public:
  // run: its folder. control must outlive it.
  Saver(std::string run, const CheckpointConfig& config, RunControl& control);

  // `step` needs no saving: it is in `checkpoint` (known to rank 0) or, if that is empty, no step has been made yet.
  void mark_saved(int64_t step, const std::string& checkpoint);

  // Writes a checkpoint of the memory of all ranks. Throws CollectiveError if that fails; earlier ones are then as they
  // were.
  void save(const CheckpointState& state, TrainingMemory& memory);

  // On rank 0: removes older checkpoints than are to be kept, and what saves that were killed left.
  void prune();

  LastSave last() const;
  bool is_saved(int64_t step) const { return step == saved_step_; }
  const std::string& checkpoint() const { return checkpoint_; }  // the last one; empty if there is none

 private:
  void write(const CheckpointState& state, const ParameterTable& table, const HostState& host_state);
  void warn(const std::vector<std::string>& notes);

  std::string run_, checkpoint_;
  CheckpointConfig config_;
  RunControl& control_;
  int64_t saved_step_ = 0;
  std::chrono::steady_clock::time_point saved_at_;
  std::set<std::string> warned_;
};

}  // namespace scfa

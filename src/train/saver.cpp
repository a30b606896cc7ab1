#include "train/saver.h"

#include <utility>

#include "core/error.h"

namespace scfa {

Saver::Saver(std::string run, const CheckpointConfig& config, RunControl& control)
    : run_(std::move(run)), config_(config), control_(control) {}

void Saver::mark_saved(int64_t step, const std::string& checkpoint) {
  checkpoint_ = control_.world.all_gather("checkpoint", checkpoint).front();
  saved_step_ = step;
  saved_at_ = std::chrono::steady_clock::now();
  control_.watchdog.set_checkpoint(checkpoint_);
  control_.world.set_checkpoint(checkpoint_);
}

LastSave Saver::last() const {
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - saved_at_;
  return {.step = saved_step_, .seconds_ago = since.count()};
}

void Saver::prune() {
  warn(remove_old_checkpoints(run_, saved_step_, config_));
}

void Saver::warn(const std::vector<std::string>& notes) {
  for (const std::string& line : notes)
    if (warned_.insert(line).second) control_.console.warning(line);
}

void Saver::save(const CheckpointState& state, TrainingMemory& memory) {
  World& world = control_.world;
  const Watched saving(control_.watchdog, Work::kSaving, concat("saving after step ", state.step));
  world.set_place(concat("saving after step ", state.step));
  HostState host_state(memory.store, true, world.is_rank0());
  memory.replicas->download(host_state);
  world.run_on_rank0("saving", [&] { write(state, memory.store.table(), host_state); });
  mark_saved(state.step, checkpoint_);
}

void Saver::write(const CheckpointState& state, const ParameterTable& table, const HostState& host_state) {
  std::vector<std::string> notes;
  checkpoint_ = save_checkpoint(run_, state, table, host_state, &notes);
  control_.watchdog.set_checkpoint(checkpoint_);
  for (std::string& line : remove_old_checkpoints(run_, state.step, config_)) notes.push_back(std::move(line));
  control_.console.line("saved " + checkpoint_);
  warn(notes);
}

}  // namespace scfa

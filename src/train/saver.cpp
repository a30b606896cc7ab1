#include "train/saver.h"

#include <utility>

#include "core/error.h"

namespace scfa {

Saver::Saver(std::string run, const CheckpointConfig& config, Console& console, Watchdog& watchdog)
    : run_(std::move(run)), config_(config), console_(console), watchdog_(watchdog) {}

void Saver::hold(int64_t step, const std::string& checkpoint) {
  checkpoint_ = checkpoint;
  watchdog_.set_checkpoint(checkpoint);
  saved_step_ = step;
  saved_at_ = std::chrono::steady_clock::now();
}

void Saver::prune() {
  warn(remove_old_checkpoints(run_, saved_step_, config_));
}

void Saver::warn(const std::vector<std::string>& notes) {
  for (const std::string& line : notes)
    if (warned_.insert(line).second) console_.warning(line);
}

bool Saver::due(int64_t step, bool asked) {
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - saved_at_;
  const bool late = config_.minutes > 0 && since.count() >= config_.minutes * 60;
  const bool regular = config_.every > 0 && step % config_.every == 0;
  return !is_saved(step) && (asked || late || regular);
}

void Saver::save(const CheckpointState& state, const ParameterTable& table, const HostState& values) {
  std::vector<std::string> notes;
  hold(state.step, save_checkpoint(run_, state, table, values, &notes));
  for (std::string& line : remove_old_checkpoints(run_, state.step, config_)) notes.push_back(std::move(line));
  console_.line("saved " + checkpoint_);
  warn(notes);
}

}  // namespace scfa

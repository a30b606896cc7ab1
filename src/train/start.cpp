#include "train/start.h"

#include <spdlog/fmt/fmt.h>

#include <filesystem>

#include "core/signals.h"
#include "train/machine.h"
#include "train/preflight.h"
#include "train/run_folder.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

// Errors of what it calls name the key.
template <class Function>
auto with_key(Function&& function) {
  try {
    return function();
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& error) {
    fail("train.init_from: ", error.what());
  }
}

CheckpointState find_initial_parameters(const RunInputs& inputs, Console& console) {
  CheckpointState found = find_checkpoint(inputs.config.train.init_from);
  for (const std::string& line : found.skipped) console.warning(line);
  std::error_code error;
  const fs::path its_run = fs::weakly_canonical(found.path, error).parent_path();
  require(!fs::equivalent(its_run, run_folder(inputs.config), error), found.path,
          ": is of the run that --overwrite replaces; give this one another --name");
  check_initial_parameters(found, inputs.config, inputs.train_set, console);
  return found;
}

}  // namespace

Start choose_start(const TrainOptions& options, const RunInputs& inputs, RunControl& control) {
  const std::string run = run_folder(inputs.config);
  Start start;
  if (options.resume)
    start.checkpoint = find_start(run, options.resume_from, control.console);
  else if (!options.overwrite)
    require_no_run(run);
  if (start.checkpoint)
    check_resumable(*start.checkpoint, inputs.config, inputs.train_set, device_name(inputs.ctx.device()),
                    control.world.size(), control.console);
  else if (!inputs.config.train.init_from.empty())
    start.init_from = with_key([&] { return find_initial_parameters(inputs, control.console); });
  return start;
}

TrainingState load_start(RunControl& control, TrainingMemory& memory, const Start& start, const Config& config) {
  const std::optional<CheckpointState>& checkpoint = start.checkpoint;
  std::optional<TrainingState> state;
  if (checkpoint) state = {checkpoint->step, checkpoint->tokens, checkpoint->validation_loss};
  state = control.world.broadcast("where to start", state);
  if (!state && config.train.init_from.empty()) {
    memory.store.init(static_cast<uint64_t>(config.seed));
    return {};
  }
  HostState host_state(memory.store, state.has_value(), control.world.is_rank0());
  control.world.run_on_rank0("reading the checkpoint", [&] {
    if (checkpoint)
      read_checkpoint(checkpoint->path, memory.store.table(), host_state);
    else  // that run may have removed it since; bucket biases fit the hash directions of the same seed only
      with_key([&] {
        read_parameters(start.init_from->path, memory.store.table(), host_state,
                        start.init_from->config.seed == config.seed);
      });
  });
  memory.replicas->upload(host_state);
  if (checkpoint)
    control.console.line(fmt::format("resumed from {} after step {}", checkpoint->path, checkpoint->step));
  return state.value_or(TrainingState());
}

}  // namespace scfa

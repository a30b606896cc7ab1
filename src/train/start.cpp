#include "train/start.h"

#include <spdlog/fmt/fmt.h>

#include "train/machine.h"
#include "train/preflight.h"
#include "train/run_folder.h"

namespace scfa {

std::optional<CheckpointState> choose_start(const TrainOptions& options, const RunInputs& inputs, RunControl& control) {
  const std::string run = run_folder(inputs.config);
  if (!options.resume) {
    if (!options.overwrite) require_no_run(run);
    return {};
  }
  std::optional<CheckpointState> checkpoint = find_start(run, options.resume_from, control.console);
  if (checkpoint)
    check_resumable(*checkpoint, inputs.config, inputs.train_set, device_name(inputs.ctx.device()),
                    control.world.size(), control.console);
  return checkpoint;
}

TrainingState load_start(RunControl& control, TrainingMemory& memory, const std::optional<CheckpointState>& checkpoint,
                         uint64_t seed) {
  std::optional<TrainingState> start;
  if (checkpoint) start = {checkpoint->step, checkpoint->tokens, checkpoint->validation_loss};
  start = control.world.broadcast("where to start", start);
  if (!start) {
    memory.store.init(seed);
    return {};
  }
  HostState host_state(memory.store, true, control.world.is_rank0());
  control.world.run_on_rank0("reading the checkpoint",
                             [&] { read_checkpoint(checkpoint->path, memory.store.table(), host_state); });
  memory.replicas->upload(host_state);
  if (checkpoint)
    control.console.line(fmt::format("resumed from {} after step {}", checkpoint->path, checkpoint->step));
  return *start;
}

}  // namespace scfa

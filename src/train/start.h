// Where a run starts: anew, with random parameters or those of another run, or from a checkpoint.
#pragma once
#include <optional>
#include <string>

#include "train/checkpoint.h"
#include "train/run_control.h"
#include "train/run_inputs.h"
#include "train/training_memory.h"
#include "train/training_state.h"

namespace scfa {

// At most one of them.
struct Start {
  std::optional<CheckpointState> checkpoint;  // goes on from it
  std::optional<CheckpointState> init_from;   // begins with its parameters
};

// Rank 0's to find. Checks only: what is there stays as it is. Throws Error if the options do not fit what is there, or
// the config does not fit the checkpoint.
Start choose_start(const TrainOptions& options, const RunInputs& inputs, RunControl& control);

// Fills the memory of all ranks: from rank 0's checkpoint, with the parameters of another run or with random ones. Rank
// 0 alone knows of a checkpoint; whether there is init_from all know by the config.
TrainingState load_start(RunControl& control, TrainingMemory& memory, const Start& start, const Config& config);

}  // namespace scfa

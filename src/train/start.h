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

// Called on rank 0. Only checks, and changes nothing. Throws Error if the options do not fit the run's folder, or the
// config does not fit the checkpoint.
Start choose_start(const TrainOptions& options, const RunInputs& inputs, RunControl& control);

// Fills the memory of all ranks: from the run's checkpoint, another run's parameters, or random ones. Only rank 0 has
// the checkpoint in `start`; all ranks know from the config whether there is an init_from.
TrainingState load_start(RunControl& control, TrainingMemory& memory, const Start& start, const Config& config);

}  // namespace scfa

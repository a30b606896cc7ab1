// Where a run starts: anew, or from a checkpoint.
#pragma once
#include <optional>
#include <string>

#include "train/checkpoint.h"
#include "train/run_control.h"
#include "train/run_inputs.h"
#include "train/training_memory.h"
#include "train/training_state.h"

namespace scfa {

// The checkpoint that a run goes on from, if any: rank 0's to find. Checks only: what is there stays as it is. Throws
// Error if the options do not fit what is there, or the config does not fit the checkpoint.
std::optional<CheckpointState> choose_start(const TrainOptions& options, const RunInputs& inputs, RunControl& control);

// Fills the memory of all ranks, from rank 0's checkpoint or with initial values. Rank 0 alone knows of a checkpoint.
TrainingState load_start(RunControl& control, TrainingMemory& memory, const std::optional<CheckpointState>& checkpoint,
                         uint64_t seed);

}  // namespace scfa

// Evaluations within a run: by all ranks together, watched over, and ended by a signal.
#pragma once
#include <optional>

#include "train/evaluate.h"
#include "train/run_control.h"
#include "train/training_memory.h"

namespace scfa {

// Of the model after update `step`. Nothing if a signal came meanwhile. The same on all ranks.
std::optional<Evaluation> validate_model(RunControl& control, Evaluator& evaluator, TrainingMemory& memory,
                                         int64_t step);

// The validation loss of a micro-batch, in nats per token: rank 0's, on all ranks.
double probe_model(RunControl& control, Evaluator& evaluator, TrainingMemory& memory, int64_t step);

}  // namespace scfa

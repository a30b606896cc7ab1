// What a run is made of before it takes memory: its text, its config as the text completes it, and its device.
#pragma once
#include <string>

#include "core/context.h"
#include "data/token_file.h"
#include "train/config.h"
#include "train/evaluate.h"
#include "train/run_control.h"
#include "train/trainer.h"

namespace scfa {

struct RunInputs {
  // Throws Error if the text is not there, or config does not go with it.
  explicit RunInputs(const Config& config);

  const TokenSet train_set, val_set;
  const Config config;
  Context ctx;
  Evaluator evaluator;
  Recompute recompute = Recompute::kNone;  // what check_inputs has chosen
};

// Ranks that a run has, or is to be planned for.
int planned_ranks(const TrainOptions& options, const World& world);

// Says on the console what the run is and which memory it takes, and chooses what is computed again. Nothing is
// allocated or written. Throws CollectiveError unless the ranks have the same inputs and options, the memory suffices
// and the options go together.
void check_inputs(RunControl& control, RunInputs& inputs, const TrainOptions& options);

// Compares the text with its checksums, once on each machine. Throws CollectiveError if it is not as it was written.
void check_text(RunControl& control, const RunInputs& inputs);

}  // namespace scfa

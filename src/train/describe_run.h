// What a run says of itself on the console before it starts.
#pragma once
#include "comm/world.h"
#include "core/context.h"
#include "data/token_file.h"
#include "train/config.h"
#include "train/console.h"
#include "train/evaluate.h"

namespace scfa {

// Program, machine, model, data and steps. Throws Error if the training split is shorter than one window.
void describe_run(Console& console, Context& ctx, const Config& config, const TokenSet& train_set,
                  const Evaluator& evaluator, int ranks);

// Prints the ranks of the run. With one rank: how to get NCCL (on a GPU) or MPI, if this build lacks it.
void describe_ranks(Console& console, const World& world, Device device);

}  // namespace scfa

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

// Who takes part; of a program that could not run on several ranks of this device, what is missing for it.
void describe_ranks(Console& console, const World& world, Device device);

}  // namespace scfa

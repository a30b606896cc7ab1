// Which algorithms a model's matrix products take on this GPU: measured once, and kept in a file for later runs.
#pragma once
#include <string>

#include "train/feeder.h"

namespace scfa {

// Where choices are kept: a file of its own for each GPU, driver and version of the library, in $XDG_CACHE_HOME/scfa or
// else ~/.cache/scfa. Empty if neither is set.
std::string product_cache_path();

// Chooses the algorithm of each product of a training step of the model: from the file, or by measuring what it does
// not have and adding it there. Other processes that do the same wait meanwhile, so that all choose the same; where
// nothing can be kept, nothing is measured, because two runs could then differ. For this the model, which must have no
// observer, computes a micro-batch of random tokens; gradients and losses are zero afterwards. Returns what was done,
// in a line for the console. Empty on a CPU.
std::string tune_products(Gpt& model, Feeder& feeder);

}  // namespace scfa

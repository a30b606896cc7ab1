// Which algorithms a model's matrix products take on this GPU: measured once, and kept in a file for later runs.
#pragma once
#include <string>

#include "train/feeder.h"

namespace scfa {

// Where choices are kept: a file of its own for each GPU, driver and version of the library, in $XDG_CACHE_HOME/scfa or
// else ~/.cache/scfa. Empty if neither is set.
std::string product_cache_path();

// Chooses the algorithm of each product of a training step of the model: from the file, or by measuring what it does
// not have and adding it there. Other processes that use the same file wait meanwhile, so that all of them choose the
// same; where choices cannot be kept, none is used, because two runs could then differ. For this the model, which must
// have no observer, computes a micro-batch of random tokens; gradients and losses are zero afterwards. Returns what was
// done, in a line for the console. Empty on a CPU. Throws Interrupted if a signal asks to stop while another process
// measures.
std::string tune_products(Gpt& model, Feeder& feeder);

}  // namespace scfa

// Which algorithms a model's GEMMs take on this GPU: measured once, and kept in a file for later runs.
#pragma once
#include <string>

#include "train/feeder.h"

namespace scfa {

// Where choices are kept: a file of its own for each GPU, driver and version of the library, in $XDG_CACHE_HOME/scfa or
// else ~/.cache/scfa. Empty if neither is set.
std::string gemm_cache_path();

struct AutotunedGemms {
  // JSON: GPU, driver, library, and the algorithm of each GEMM of the model. A GEMM that is missing takes the one
  // that cuBLASLt's heuristics put first. Empty on a CPU.
  std::string choices;
  std::string line;  // for the console: what was done
};

// Chooses the algorithm of each GEMM of a training step of the model: from `known`, the choices of a checkpoint, if
// GPU, driver and library are the same; from the file; or by measuring what neither has. The file gets what it lacks.
// Other processes that use it wait meanwhile, so that all of them choose the same. What cannot be kept is not used,
// because two runs could then differ. To measure, the model, which must have no observer, runs a micro-batch of random
// tokens; gradients and losses are zero afterwards. On a CPU nothing is done. Throws Interrupted if a signal asks to
// stop while another process measures.
AutotunedGemms autotune_gemms(Gpt& model, Feeder& feeder, const std::string& known = {});

// Takes the choices of another rank, and no others; none if its GPU, driver or library is another one.
void take_gemm_algorithms(Context& ctx, const std::string& choices);

}  // namespace scfa

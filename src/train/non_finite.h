// How a run ends whose loss or gradient is not finite. Every rank calls these at the same time, and all throw
// CollectiveError naming the first tensor that is not finite, of the first rank that has one.
#pragma once
#include <cstdint>
#include <string>

#include "comm/world.h"
#include "model/gpt.h"

namespace scfa {

// In update `step`. loss, norm: of all ranks. mine: the loss of this rank, whose activations are still there.
[[noreturn]] void fail_step(World& world, const Gpt& model, int64_t step, double loss, double norm, double mine);

// After update `step`, found by an evaluation. last_checkpoint: empty if there is none.
[[noreturn]] void fail_evaluation(World& world, const Gpt& model, int64_t step, double loss,
                                  const std::string& last_checkpoint);

}  // namespace scfa

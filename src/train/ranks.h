// What the ranks of a run must have in common, looked at before anything is allocated.
#pragma once
#include <string>

#include "comm/world.h"
#include "core/tensor.h"
#include "train/config.h"
#include "train/trainer.h"

namespace scfa {

// Takes the GPU of this rank, if device is not the CPU: the one whose number is the rank's on its machine.
void use_gpu_of_rank(const World& world, Device device);

// Throws CollectiveError unless all ranks have the same program, options, config, data (by its fingerprint) and kind of
// device, and each a GPU of its own, or options.share_gpu says that they need not.
void compare_ranks(World& world, const Config& config, const TrainOptions& options, const std::string& data,
                   Device device);

}  // namespace scfa

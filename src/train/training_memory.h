// What lives in memory while a rank trains, made before the first step and not grown after it.
#pragma once
#include <memory>

#include "data/loader.h"
#include "train/config.h"
#include "train/feeder.h"
#include "train/optimizer.h"
#include "train/replicas.h"

namespace scfa {

struct TrainingMemory {
  // Of one rank, without what keeps ranks the same. ctx and train_set must outlive it. Throws Error if memory does not
  // suffice.
  TrainingMemory(Context& ctx, const Config& config, const TokenSet& train_set, Recompute recompute, int rank,
                 int ranks);

  ParameterStore store;
  Gpt model;
  Optimizer optimizer;
  Feeder feeder;
  Loader loader;
  std::unique_ptr<Replicas> replicas;  // told by the model what it does
};

// Every rank calls it at the same time. Throws CollectiveError if memory does not suffice on one of them.
std::unique_ptr<TrainingMemory> allocate_training(World& world, Context& ctx, const Config& config,
                                                  const TokenSet& train_set, Recompute recompute, bool share_gpu);

}  // namespace scfa

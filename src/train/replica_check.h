// Whether all ranks of a run still have the same parameters, to the bit.
#pragma once
#include "comm/world.h"
#include "model/parameter_store.h"

namespace scfa {

// Compares hashes of compute_params or, where nothing is sharded, of master_params and moments. Every rank calls it at
// the same time, after update `step`. hash: (2) i32 on the device, overwritten. Throws CollectiveError naming the ranks
// that differ from rank 0.
void require_equal_replicas(World& world, const ParameterStore& store, Context& ctx, const Tensor& hash, int64_t step);

}  // namespace scfa

// The attention kernels for Hopper (sm_90a); attention.cu decides when they run.
#pragma once
#include <string>

#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct AttentionParams;

namespace sm90 {

// Whether they run here: a small product is computed on the device, once. Otherwise why not.
struct Probe {
  bool usable;
  std::string reason;
};
const Probe& probe();

// D is a multiple of 8 up to 128. forward uses the counter at p.tile_counter, backward that and the next one. They
// must be zero. backward needs the statistics computed and the rows in no segment cleared. Where there are many
// single-block segments, each is taken whole by one block.
void forward(Context& ctx, const AttentionParams& p, const Segments& s);
void backward(Context& ctx, AttentionParams p, const Segments& s);

// What backward needs of the scratch besides: p.dq_semaphores, p.dq_ring and p.dq_accum, in this order.
struct Sums {
  int64_t ring_blocks;      // blocks of queries in dq_ring
  int64_t dq_accum_blocks;  // blocks of queries in a thread block's part of dq_accum; 0: no segment is taken whole
  int64_t semaphores, ring, accum;  // sizes in floats
  int64_t floats() const { return semaphores + ring + accum; }
};
Sums sums_of(const Segments& s, int64_t D);

}  // namespace sm90
}  // namespace scfa::gpu

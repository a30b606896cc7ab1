// The attention kernels for Hopper (sm_90a); attention.cu decides when they run.
#pragma once
#include <string>

#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct Problem;

namespace sm90 {

// Whether they run here: a small product is computed on the device, once. Otherwise why not.
struct Probe {
  bool usable;
  std::string reason;
};
const Probe& probe();

// D a multiple of 8 up to 128. They take tickets from p.ticket on, forward one, backward two. backward finds
// statistics computed and rows in no segment cleared. Where there are many
// single-block segments, each is taken whole by one block.
void forward(Context& ctx, const Problem& p, const Segments& s);
void backward(Context& ctx, Problem p, const Segments& s);

// What backward needs of the scratch besides, in floats: p.turns, p.dq_ring and p.dq_parts, in this order.
struct Sums {
  int64_t ring_blocks, parts_blocks;  // of the ring; of a block that takes whole segments, 0 where none does
  int64_t turns, ring, parts;
  int64_t floats() const { return turns + ring + parts; }
};
Sums sums_of(const Segments& s, int64_t D);

}  // namespace sm90
}  // namespace scfa::gpu

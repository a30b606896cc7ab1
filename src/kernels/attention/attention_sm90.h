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

// Each takes the tiles of p.tiles by p.ticket and writes what its portable namesake writes. D a multiple of 8 up to
// 128; backward_keys does nothing and returns false for more than 64.
void forward(Context& ctx, const Problem& p, const Segments& s);
void backward_queries(Context& ctx, const Problem& p, const Segments& s);
bool backward_keys(Context& ctx, const Problem& p, const Segments& s);

}  // namespace sm90
}  // namespace scfa::gpu

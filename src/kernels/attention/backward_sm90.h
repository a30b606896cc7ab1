// The parts of attention backward for Hopper. Each takes its tickets from p.ticket.
#pragma once
#include "core/gpu.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct Problem;

namespace sm90 {

// dq, dk and dv, or where p.inverse_norm is given what goes through the keys in dq instead of dk. only_long: of long
// segments.
void backward_keys(Stream stream, const Problem& p, const Segments& s, bool only_long);
// Everything of short segments.
void backward_segments(Stream stream, const Problem& p, const Segments& s);

}  // namespace sm90
}  // namespace scfa::gpu

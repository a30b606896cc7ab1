// The parts of attention backward for Hopper. Each uses the tile counter that p.tile_counter points to.
#pragma once
#include "core/gpu.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct AttentionParams;

namespace sm90 {

// dq, dk and dv. Where p.inverse_norm is given, what goes through the keys is added to dq instead of written to dk.
// only_multi_block: of multi-block segments only.
void backward_keys(Stream stream, const AttentionParams& p, const Segments& s, bool only_multi_block);
// dq, dk and dv of single-block segments, each by one block.
void backward_single_block_segments(Stream stream, const AttentionParams& p, const Segments& s);

}  // namespace sm90
}  // namespace scfa::gpu

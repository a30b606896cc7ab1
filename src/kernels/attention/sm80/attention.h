// Attention forward and backward on all GPUs from sm_80 on.
#pragma once
#include "core/context.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

struct AttentionParams;

namespace sm80 {

// D is a multiple of 8 up to 128. forward uses the counter at p.tile_counter, backward that one and the next; both must
// be zero. Rows in no segment are not written. backward reads p.lse_delta.
void forward(Context& ctx, const AttentionParams& p, const Segments& segments);
void backward(Context& ctx, const AttentionParams& p, const Segments& segments);

// The two halves of backward: dq by query tiles, dk and dv by key tiles.
void backward_dq(Context& ctx, const AttentionParams& p, const Segments& segments);
void backward_dk_dv(Context& ctx, const AttentionParams& p, const Segments& segments);

}  // namespace sm80
}  // namespace scfa::gpu

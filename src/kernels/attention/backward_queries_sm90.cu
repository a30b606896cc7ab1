// dq of long segments for Hopper: tiles of queries, as in forward, with probabilities from lse and their gradients from
// dout and v.
#include "kernels/attention/backward_sm90.h"
#include "kernels/attention/hopper_gather.cuh"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

template <class S>
__device__ inline void compute_queries(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const int group = uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  Ring<S::kSlots> slots;
  Ring<S::kStages> ring;
  while (true) {
    barrier_wait(slots.barrier(memory.tile_full()), slots.parity());
    fence_for_products();
    const SlotView<S> slot{memory.slot(slots.stage)};
    if (uniform(slot.head()) < 0) break;
    const int rows = uniform(slot.rows());
    const int most = uniform(group_first < rows ? slot.bound(min(group_first + 63, rows - 1)) : 0);
    const int steps = (most + kStep - 1) / kStep;
    const uint32_t queries = memory.own(slots.stage, 0), douts = memory.own(slots.stage, 1);
    const float2 statistics[2] = {load_pair(memory.own_statistics(slots.stage) + 8 * row),  // lse, delta
                                  load_pair(memory.own_statistics(slots.stage) + 8 * (row + 8))};
    float dq[kD / 2] = {};
    uint32_t gradients[kStep / 16][4];
    uint32_t last_empty = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const uint32_t keys = memory.other(ring.stage, 0), values = memory.other(ring.stage, 1);
      barrier_wait(ring.barrier(memory.full()), ring.parity());
      fence_for_products();
      float s[kStep / 2], ds[kStep / 2];
      pin(s);
      pin(ds);
      warpgroup_arrive();
      start_rows<kStep, S::kRows, kStep, kD>(s, queries, group_first, keys);
      warpgroup_commit();
      start_rows<kStep, S::kRows, kStep, kD>(ds, douts, group_first, values);
      warpgroup_commit();
      warpgroup_wait<1>();
      pin(s);
      pin(dq);
      pin(gradients);
      if (step > 0) release(last_empty);  // the product of the step before is done too
      last_empty = ring.barrier(memory.empty());
      if ((step + 1) * kStep > uniform(slot.bound(group_first))) {
        const int column = step * kStep + 2 * here(lane % 4);
        const int left[2] = {slot.bound(here(row)) - column, slot.bound(here(row) + 8) - column};
#pragma unroll
        for (int i = 0; i < kStep / 2; ++i)
          if (8 * (i / 4) + i % 2 >= left[i / 2 % 2]) s[i] = -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kStep / 2; ++i) s[i] = exp2_fast(s[i] * p.scale_log2 - statistics[i / 2 % 2].x);
      warpgroup_wait<0>();
      pin(ds);
#pragma unroll
      for (int i = 0; i < kStep / 2; ++i) ds[i] = s[i] * (ds[i] - statistics[i / 2 % 2].y);
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) operand_of(gradients[k], ds, k);
      pin(dq);
      pin(gradients);
      warpgroup_arrive();
      start_scores<kStep, kStep, kD>(dq, gradients, keys, true);
      warpgroup_commit();
      ring.next();
    }
    warpgroup_wait<0>();
    pin(dq);
    pin(gradients);
    if (steps > 0) release(last_empty);
    skip_steps<S>(memory, ring, steps, (uniform(slot.end()) + kStep - 1) / kStep);
    sync_threads(2 + group, kGroup);  // no warp of the group reads its queries any more
    const float factor[2] = {p.scale, p.scale};
    scatter<typename S::Own>(dq, factor, queries, warp_first, slot.rows(), slot.head(), p.dq, p,
                             [&](int at) { return slot.token(at); });
    release(slots.barrier(memory.tile_empty()));
    slots.next();
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) queries_kernel(const __grid_constant__ Problem p, int list) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers();
  if (uniform(threadIdx.x / kGroup) == 0) {
    give_registers_back<S::kGather>();
    gather<S, Side::kQueries, true>(p, memory, list, p.q, p.dout, p.k, p.v);
  } else {
    take_registers<S::kCompute>();
    compute_queries<S>(p, memory);
  }
#endif
}

using Queries64 = Shape<64, 3, 2, 2, 64, 5, 32, 160>;
using Queries128 = Shape<128, 2, 2, 1, 64, 3, 40, 232>;

}  // namespace

void backward_queries(Stream stream, const Problem& p, const Segments& s, bool only_long) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Queries64>(stream, kOp, queries_kernel<Queries64>, only_long ? kLongWideQueryTiles : kWideQueryTiles,
                             s.q_wide_tiles, p);
  else
    launch_blocks<Queries128>(stream, kOp, queries_kernel<Queries128>, only_long ? kLongQueryTiles : kQueryTiles,
                              s.q_tiles, p);
}

}  // namespace scfa::gpu::sm90

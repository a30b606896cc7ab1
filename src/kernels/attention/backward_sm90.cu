// Attention backward for Hopper. Tiles of keys sum up dk and dv: scores are transposed, keys by queries, so that
// probabilities become an operand without leaving their registers. For dq there are two ways:
// - A short segment is taken by one block whole, tile of keys by tile of keys: gradients of scores go through shared
//   memory, dq is summed in f32 in a buffer that the block has to itself and that stays in the L2 cache.
// - Of a long segment, blocks take tiles; a kernel of its own that owns tiles of queries computes scores once more.
// Either way every sum has one owner and one order, so results are the same bits in every run.
#include <climits>

#include "kernels/attention/attention_sm90.h"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

// ---- dq of long segments --------------------------------------------------------------------------------------------

// As forward, with probabilities from lse, and their gradients from dout and v.
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

// ---- dk and dv, and dq of short segments ----------------------------------------------------------------------------

constexpr int kAllConsumers = 1 + 1 + 3;  // a named barrier: 1 is the gathering group's, 2 to 4 are the computing ones'

// Where a block that takes whole segments sums up dq of 64 queries: a warpgroup's accumulators, four of a thread side
// by side, as they lie in registers. Only ever touched by the same thread.
__device__ inline float4* parts_of(const Problem& p, int queries) {
  return reinterpret_cast<float4*>(p.dq_parts + (blockIdx.x * (kShortRows / 64) + queries) * int64_t{64 * 64}) +
         threadIdx.x % kGroup;
}
// first: nothing is there yet.
__device__ inline void add_parts(float4* to, const float (&dq)[32], bool first) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float4* at = to + c * kGroup;
    if (first)
      asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(dq[4 * c]), "f"(dq[4 * c + 1]),
                   "f"(dq[4 * c + 2]), "f"(dq[4 * c + 3])
                   : "memory");
    else
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(dq[4 * c]),
                   "f"(dq[4 * c + 1]), "f"(dq[4 * c + 2]), "f"(dq[4 * c + 3])
                   : "memory");
  }
}
__device__ inline void load_parts(float (&dq)[32], const float4* from) {
#pragma unroll
  for (int c = 0; c < 8; ++c)
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(dq[4 * c]), "=f"(dq[4 * c + 1]), "=f"(dq[4 * c + 2]), "=f"(dq[4 * c + 3])
                 : "l"(from + c * kGroup)
                 : "memory");
}

// What normalising keys adds to dq, (dk - k (k . dk)) / |q|, in place of dk, which is scaled first. keys: the tile the
// keys lie in; row: the thread's first.
template <class S>
__device__ inline void through_norm(float (&dk)[S::kD / 2], uint32_t keys, int row, const float (&inverse_norm)[2],
                                    float scale) {
  constexpr int kD = S::kD;
  const int lane = threadIdx.x % 32;
  const auto key_pair = [&](int j, int half) {
    return static_cast<uint32_t>(load_int(S::Own::at(keys, row + 8 * half, j) + lane % 4 * 4));
  };
  float dot[2] = {};
#pragma unroll
  for (int j = 0; j < kD / 8; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t key = key_pair(j, half);
      dot[half] += low_half(key) * dk[4 * j + 2 * half] + high_half(key) * dk[4 * j + 2 * half + 1];
    }
#pragma unroll
  for (int half = 0; half < 2; ++half) dot[half] = quad_sum(dot[half]);
#pragma unroll
  for (int j = 0; j < kD / 8; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t key = key_pair(j, half);
      const float factor = scale * inverse_norm[half];
      dk[4 * j + 2 * half] = (dk[4 * j + 2 * half] - low_half(key) * dot[half]) * factor;
      dk[4 * j + 2 * half + 1] = (dk[4 * j + 2 * half + 1] - high_half(key) * dot[half]) * factor;
    }
}

// A step's probabilities and their gradients as operands, keys by queries; dv += probabilities dout is under way.
// Queries past the end are zeros with statistics of zero: they add nothing. Keys past the end are hidden. Registers are
// few: scores are gone, and probabilities rounded, before the gradients of these come.
template <class S>
__device__ inline void compute_gradients(uint32_t (&operand)[S::kStep / 16][4], uint32_t (&gradients)[S::kStep / 16][4],
                                         float (&dv)[S::kD / 2], const Problem& p, const Memory<S>& memory,
                                         const SlotView<S>& slot, uint32_t keys, uint32_t values, int stage, int begin,
                                         int group_first, int row) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const uint32_t queries = memory.other(stage, 0), douts = memory.other(stage, 1);
  const int lane = threadIdx.x % 32, rows = uniform(slot.rows());
  const uint32_t statistics = memory.statistics(stage) + lane % 4 * 16;  // lse, delta of two queries
  {
    float s[kStep / 2];
    pin(s);
    warpgroup_arrive();
    start_rows<kStep, S::kRows, kStep, kD>(s, keys, group_first, queries);
    warpgroup_commit();
    warpgroup_wait<0>();
    pin(s);
    if (group_first + 64 > rows || begin < uniform(slot.bound(group_first + 63))) {
      const int at = here(row), column = begin + 2 * here(lane % 4);
      const int hidden[2] = {(at < rows ? slot.bound(at) : INT_MAX) - column,
                             (at + 8 < rows ? slot.bound(at + 8) : INT_MAX) - column};
#pragma unroll
      for (int i = 0; i < kStep / 2; ++i)
        if (8 * (i / 4) + i % 2 < hidden[i / 2 % 2]) s[i] = -INFINITY;
    }
#pragma unroll
    for (int j = 0; j < kStep / 8; ++j) {
      const uint4 two = load_chunk(statistics + 64 * j);
      const float lse[2] = {__uint_as_float(two.x), __uint_as_float(two.z)};
#pragma unroll
      for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(s[4 * j + i] * p.scale_log2 - lse[i % 2]);
    }
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) operand_of(operand[k], s, k);
  }
  float ds[kStep / 2];
  pin(ds);
  pin(dv);
  pin(operand);
  warpgroup_arrive();
  start_rows<kStep, S::kRows, kStep, kD>(ds, values, group_first, douts);
  warpgroup_commit();
  start_scores<kStep, kStep, kD>(dv, operand, douts, true);
  warpgroup_commit();
  warpgroup_wait<1>();
  pin(ds);
#pragma unroll
  for (int j = 0; j < kStep / 8; ++j) {
    const uint4 two = load_chunk(statistics + 64 * j);
    const float delta[2] = {__uint_as_float(two.y), __uint_as_float(two.w)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t pair = operand[j / 2][j % 2 * 2 + half];
      ds[4 * j + 2 * half] = low_half(pair) * (ds[4 * j + 2 * half] - delta[0]);
      ds[4 * j + 2 * half + 1] = high_half(pair) * (ds[4 * j + 2 * half + 1] - delta[1]);
    }
  }
#pragma unroll
  for (int k = 0; k < kStep / 16; ++k) operand_of(gradients[k], ds, k);
}

// Where whole segments are taken, warpgroups hand their gradients of scores to that one among them whose turn it is to
// compute dq of the step's queries, through as many buffers as there are warpgroups: it is the same one for the same
// queries in every tile of keys.
template <class S, bool kWhole>
__device__ inline void compute_keys(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep, kConsumers = S::kGroups * kGroup;
  static_assert(!kWhole || (kD == 64 && kStep == 64));
  using Exchange = Tile<S::kRows, kStep>;
  const int group = uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  uint32_t turns = 0;  // of the buffers of the exchange, a bit each
  Ring<S::kSlots> slots;
  Ring<S::kStages> ring;
  while (true) {
    barrier_wait(slots.barrier(memory.tile_full()), slots.parity());
    fence_for_products();
    const SlotView<S> slot{memory.slot(slots.stage)};
    if (uniform(slot.head()) < 0) break;
    const int end = uniform(slot.end());
    const uint32_t keys = memory.own(slots.stage, 0), values = memory.own(slots.stage, 1);
    float dk[kD / 2] = {}, dv[kD / 2] = {};
    int begin = uniform(slot.begin()), taker = begin / kStep % S::kGroups;
#pragma unroll 1
    for (; begin < end; begin += kStep, ring.next()) {
      barrier_wait(ring.barrier(memory.full()), ring.parity());
      const bool visible = group_first < uniform(slot.rows()) && begin + kStep > uniform(slot.bound(group_first));
      if (!kWhole && !visible) {
        release(ring.barrier(memory.empty()));  // no query of the step sees a key of the group
        continue;
      }
      fence_for_products();
      const uint32_t exchange = memory.extra() + taker * Exchange::kBytes;
      const auto hand_over = [&](const uint32_t(&gradients)[kStep / 16][4]) {
        barrier_wait(memory.exchange_empty() + 8 * taker, (turns >> taker & 1) ^ 1);
        const uint32_t corner = Exchange::at(exchange, warp_first + lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < kStep / 16; ++k) store_matrices(Exchange::step(corner, 0, 2 * k), gradients[k]);
        fence_for_products();
        release(memory.exchange_full() + 8 * taker);
      };
      uint32_t operand[kStep / 16][4], gradients[kStep / 16][4];
      if (visible) {
        compute_gradients<S>(operand, gradients, dv, p, memory, slot, keys, values, ring.stage, begin, group_first,
                             row);
        if constexpr (kWhole) hand_over(gradients);
        pin(dk);
        pin(gradients);
        warpgroup_arrive();
        start_scores<kStep, kStep, kD>(dk, gradients, memory.other(ring.stage, 0), true);
        warpgroup_commit();
        warpgroup_wait<0>();
        pin(dk);
        pin(dv);
        pin(operand);
        pin(gradients);
      } else {
#pragma unroll
        for (int k = 0; k < kStep / 16; ++k)
#pragma unroll
          for (int i = 0; i < 4; ++i) gradients[k][i] = 0;
        hand_over(gradients);
      }
      release(ring.barrier(memory.empty()));
      if constexpr (kWhole) {
        if (taker == group) {
          barrier_wait(memory.exchange_full() + 8 * taker, turns >> taker & 1);
          float dq[kD / 2];
          pin(dq);
          warpgroup_arrive();
          start_columns<S::kRows, kD>(dq, exchange, keys);
          warpgroup_commit();
          warpgroup_wait<0>();
          pin(dq);
          release(memory.exchange_empty() + 8 * taker);
          add_parts(parts_of(p, begin / kStep), dq, uniform(slot.number()) == 0);
        }
        turns ^= 1u << taker;
        if (++taker == S::kGroups) taker = 0;
      }
    }
    // No warp reads the tile any more: the group's own rows, and where whole segments are taken all keys.
    if (kWhole)
      sync_threads(kAllConsumers, kConsumers);
    else
      sync_threads(2 + group, kGroup);
    const auto token_of = [&](int at) { return slot.token(at); };
    const int rows = uniform(slot.rows()), head = uniform(slot.head());
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    if (p.inverse_norm != nullptr) {
      float dq[kD / 2] = {};
      if constexpr (kWhole) {
        // The tile's rows are queries as well, and their dq is complete: later keys are not seen by them.
        const int queries = uniform(slot.number()) * S::kGroups + group;
        if (queries * kStep < end) load_parts(dq, parts_of(p, queries));
      }
      scatter<typename S::Own>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      const uint32_t norms = memory.own_statistics(slots.stage);
      const float inverse_norm[2] = {__int_as_float(load_int(norms + 4 * row)),
                                     __int_as_float(load_int(norms + 4 * (row + 8)))};
      through_norm<S>(dk, keys, row, inverse_norm, p.scale);
      __syncwarp();
      if constexpr (kWhole) {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
      }
      scatter<typename S::Own, !kWhole>(dk, one, keys, warp_first, rows, head, p.dq, p, token_of);
    } else {
      scatter<typename S::Own>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      scatter<typename S::Own>(dk, scale, keys, warp_first, rows, head, p.dk, p, token_of);
      if constexpr (kWhole) {
        if (uniform(slot.last()) != 0) {
          const int* index = p.q_index + uniform(slot.queries());
          const int first_seen = uniform(slot.first_seen());
          const uint32_t staging = memory.extra() + group * Exchange::kBytes;
          for (int at = group * kStep; at < end; at += S::kGroups * kStep) {
            float dq[kD / 2] = {};
            if (at >= first_seen) load_parts(dq, parts_of(p, at / kStep));
            scatter<Tile<64, kD>>(dq, scale, staging, 16 * warp, end - at, head, p.dq, p,
                                  [&](int i) { return index[at + i]; });
            __syncwarp();
          }
          sync_threads(kAllConsumers, kConsumers);  // what is staged here the next tile overwrites
        }
      }
    }
    release(slots.barrier(memory.tile_empty()));
    slots.next();
  }
}

template <class S, bool kWhole>
__global__ void __launch_bounds__(S::kThreads, 1) keys_kernel(const __grid_constant__ Problem p, int list) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers();
  if (uniform(threadIdx.x / kGroup) == 0) {
    give_registers_back<S::kGather>();
    gather<S, Side::kKeys, true, kWhole>(p, memory, list, p.k, p.v, p.q, p.dout);
  } else {
    take_registers<S::kCompute>();
    compute_keys<S, kWhole>(p, memory);
  }
#endif
}

// ---------------------------------------------------------------------------------------------------------------------

using Queries64 = Shape<64, 3, 2, 2, 64, 5, 32, 160>;
using Queries128 = Shape<128, 2, 2, 1, 64, 3, 40, 232>;
using Keys64 = Shape<64, 3, 2, 2, 64, 5, 32, 160>;
using Keys128 = Shape<128, 2, 2, 1, 64, 4, 40, 232>;
using Segments64 = Shape<64, 3, 2, 2, 64, 3, 32, 160, 3 * 192 * 64 * 2>;

}  // namespace

int64_t dq_parts_size(int64_t D) {
  return D <= 64 ? int64_t{properties().multiprocessors} * kShortRows * 64 : 0;
}

// A block takes a segment, so that they should be enough to go round.
bool takes_whole(int64_t segments, int64_t D) {
  return D <= 64 && 2 * segments >= properties().multiprocessors;
}

void backward(Context& ctx, Problem p, const Segments& s, bool whole) {
  constexpr const char* kOp = "attention_backward";
  const int queries = whole ? kLongWideQueryTiles : kWideQueryTiles, keys = whole ? kLongWideKeyTiles : kWideKeyTiles;
  if (p.D <= 64) {
    if (whole) launch_blocks<Segments64>(ctx, kOp, keys_kernel<Segments64, true>, kShortSegments, s.short_segments, p);
    ++p.ticket;
    launch_blocks<Queries64>(ctx, kOp, queries_kernel<Queries64>, queries, s.q_wide_tiles, p);
    ++p.ticket;
    launch_blocks<Keys64>(ctx, kOp, keys_kernel<Keys64, false>, keys, s.k_wide_tiles, p);
  } else {
    launch_blocks<Queries128>(ctx, kOp, queries_kernel<Queries128>, kQueryTiles, s.q_tiles, p);
    ++p.ticket;
    launch_blocks<Keys128>(ctx, kOp, keys_kernel<Keys128, false>, kKeyTiles, s.k_tiles, p);
  }
}

}  // namespace scfa::gpu::sm90

// dk and dv for Hopper, and dq of short segments. Tiles of keys sum up dk and dv: scores are transposed, keys by
// queries, so that probabilities become an operand without leaving their registers. Of a long segment, blocks take
// tiles. A short one is taken by one block whole, tile of keys by tile of keys: gradients of scores go through shared
// memory, dq is summed in f32 in a buffer that the block has to itself and that stays in the L2 cache.
#include <climits>

#include "kernels/attention/backward_sm90.h"
#include "kernels/attention/hopper_gather.cuh"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

// Where a block that takes whole segments sums up dq of 64 queries: a warpgroup's accumulators, four of a thread side
// by side, as they lie in registers. Only ever touched by the same thread.
[[maybe_unused]] __device__ inline float4* parts_of(const Problem& p, int queries) {
  return reinterpret_cast<float4*>(p.dq_parts + (blockIdx.x * (kShortRows / 64) + queries) * int64_t{64 * 64}) +
         threadIdx.x % kGroup;
}
// first: nothing is there yet.
[[maybe_unused]] __device__ inline void add_parts(float4* to, const float (&dq)[32], bool first) {
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
[[maybe_unused]] __device__ inline void load_parts(float (&dq)[32], const float4* from) {
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

// Of a step's scores s, its probabilities and their gradients as operands, keys by queries; dv += probabilities dout is
// under way then. Queries past the end are zeros with statistics of zero: they add nothing. Keys past the end are
// hidden. Registers are few: scores are gone, and probabilities rounded, before the gradients of these come.
template <class S>
__device__ inline void compute_gradients(uint32_t (&operand)[S::kStep / 16][4], uint32_t (&gradients)[S::kStep / 16][4],
                                         float (&s)[S::kStep / 2], float (&dv)[S::kD / 2], const Problem& p,
                                         const Memory<S>& memory, const SlotView<S>& slot, uint32_t values, int stage,
                                         int begin, int group_first, int row) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const uint32_t douts = memory.other(stage, 1);
  const int lane = threadIdx.x % 32, rows = uniform(slot.rows());
  const uint32_t statistics = memory.statistics(stage) + lane % 4 * 16;  // lse, delta of two queries
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
  constexpr int kD = S::kD, kStep = S::kStep;
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
    const Steps steps(uniform(slot.begin()), end, kStep, kWhole && uniform(slot.number()) % 2 != 0);
    int owed = -1;  // the step of queries whose dq this group is to compute
    const auto start_dq = [&](float(&dq)[kD / 2]) {
      barrier_wait(memory.exchange_full() + 8 * group, (turns >> group & 1) ^ 1);
      pin(dq);
      warpgroup_arrive();
      start_columns<S::kRows, kD>(dq, memory.extra() + group * Exchange::kBytes, keys);
      warpgroup_commit();
    };
    const auto finish_dq = [&](const float(&dq)[kD / 2], int queries) {
      release(memory.exchange_empty() + 8 * group);
      if constexpr (kWhole) add_parts(parts_of(p, queries), dq, uniform(slot.number()) == 0);
    };
    const auto sees = [&](int begin) {  // whether any query of the step sees a key of the group
      return group_first < uniform(slot.rows()) && begin + kStep > uniform(slot.bound(group_first));
    };
    float s[kStep / 2];
    const auto start_scores_of = [&](int stage) {
      pin(s);
      warpgroup_arrive();
      start_rows<kStep, S::kRows, kStep, kD>(s, keys, group_first, memory.other(stage, 0));
      warpgroup_commit();
    };
    uint32_t operand[kStep / 16][4], gradients[kStep / 16][4];
    const auto start_dk = [&] {
      pin(dk);
      pin(gradients);
      warpgroup_arrive();
      start_scores<kStep, kStep, kD>(dk, gradients, memory.other(ring.stage, 0), true);
      warpgroup_commit();
    };
    const auto finish_step = [&] {
      warpgroup_wait<0>();
      pin(s);
      pin(dk);
      pin(dv);
      pin(operand);
      pin(gradients);
      release(ring.barrier(memory.empty()));
    };
    if constexpr (kWhole) {
#pragma unroll 1
      for (int i = 0; i < steps.count; ++i, ring.next()) {
        const int begin = steps.at(i), taker = begin / kStep % S::kGroups;
        barrier_wait(ring.barrier(memory.full()), ring.parity());
        fence_for_products();
        const auto hand_over = [&] {
          barrier_wait(memory.exchange_empty() + 8 * taker, (turns >> taker & 1) ^ 1);
          const uint32_t corner =
              Exchange::at(memory.extra() + taker * Exchange::kBytes, warp_first + lane % 16, lane / 16);
#pragma unroll
          for (int k = 0; k < kStep / 16; ++k) store_matrices(Exchange::step(corner, 0, 2 * k), gradients[k]);
          fence_for_products();
          release(memory.exchange_full() + 8 * taker);
        };
        if (sees(begin)) {
          start_scores_of(ring.stage);
          warpgroup_wait<0>();
          pin(s);
          compute_gradients<S>(operand, gradients, s, dv, p, memory, slot, values, ring.stage, begin, group_first, row);
          hand_over();
          start_dk();
        } else {
#pragma unroll
          for (int k = 0; k < kStep / 16; ++k)
#pragma unroll
            for (int j = 0; j < 4; ++j) gradients[k][j] = 0;
          hand_over();
        }
        if (owed >= 0) {  // all have handed over what it takes a step ago
          float dq[kD / 2];
          start_dq(dq);
          finish_step();
          pin(dq);
          finish_dq(dq, owed);
        } else {
          finish_step();
        }
        owed = taker == group ? begin / kStep : -1;
        turns ^= 1u << taker;
      }
    } else {
      int i = 0;
      for (; i < steps.count && !sees(steps.at(i)); ++i, ring.next()) {
        barrier_wait(ring.barrier(memory.full()), ring.parity());
        release(ring.barrier(memory.empty()));
      }
      if (i < steps.count) {
        barrier_wait(ring.barrier(memory.full()), ring.parity());
        fence_for_products();
        start_scores_of(ring.stage);
        warpgroup_wait<0>();
        pin(s);
      }
#pragma unroll 1
      for (; i < steps.count; ++i, ring.next()) {
        compute_gradients<S>(operand, gradients, s, dv, p, memory, slot, values, ring.stage, steps.at(i), group_first,
                             row);
        start_dk();
        // The next step's scores come out with these. After the last step nobody reads them.
        Ring<S::kStages> next = ring;
        if (i + 1 < steps.count) {
          next.next();
          barrier_wait(next.barrier(memory.full()), next.parity());
        }
        fence_for_products();
        start_scores_of(next.stage);
        finish_step();
      }
    }
    if (kWhole && owed >= 0) {
      float dq[kD / 2];
      start_dq(dq);
      warpgroup_wait<0>();
      pin(dq);
      finish_dq(dq, owed);
    }
    // No warp of the group reads its rows of the values any more. Other groups may still read keys.
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
      if constexpr (kWhole) {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
      }
      scatter<typename S::Own, !kWhole>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
    } else {
      scatter<typename S::Own>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      scatter<typename S::Own>(dk, scale, values, warp_first, rows, head, p.dk, p, token_of);
      if constexpr (kWhole) {
        if (uniform(slot.last()) != 0) {
          const int* index = p.q_index + uniform(slot.queries());
          const int first_seen = uniform(slot.first_seen());
          for (int at = group * kStep; at < end; at += S::kGroups * kStep) {
            float dq[kD / 2] = {};
            if (at >= first_seen) load_parts(dq, parts_of(p, at / kStep));
            scatter<typename S::Own>(dq, scale, values, warp_first, group_first + end - at, head, p.dq, p,
                                     [&](int i) { return index[at + i - group_first]; });
          }
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

using Keys64 = Shape<64, 3, 2, 2, 64, 5, 32, 160>;
using Keys128 = Shape<128, 2, 2, 1, 64, 4, 40, 232>;
using Segments64 = Shape<64, 3, 2, 2, 64, 3, 32, 160, 3 * 192 * 64 * 2>;

}  // namespace

void backward_keys(Stream stream, const Problem& p, const Segments& s, bool only_long) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Keys64>(stream, kOp, keys_kernel<Keys64, false>, only_long ? kLongWideKeyTiles : kWideKeyTiles,
                          s.k_wide_tiles, p);
  else
    launch_blocks<Keys128>(stream, kOp, keys_kernel<Keys128, false>, only_long ? kLongKeyTiles : kKeyTiles, s.k_tiles,
                           p);
}

void backward_segments(Stream stream, const Problem& p, const Segments& s) {
  launch_blocks<Segments64>(stream, "attention_backward", keys_kernel<Segments64, true>, kShortSegments,
                            s.short_segments, p);
}

}  // namespace scfa::gpu::sm90

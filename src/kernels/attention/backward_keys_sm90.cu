// dq, dk and dv for Hopper, by tiles of keys, which sum up dk and dv: scores are transposed, keys by queries, so that
// probabilities become an operand without leaving their registers. Gradients of scores go through shared memory, where
// queries need them; dq is summed up in f32 in buffers that stay in the L2 cache. Of a long segment, blocks take tiles
// and share a buffer. A short one may be taken by one block whole, tile by tile, which has a buffer to itself.
#include <climits>

#include "kernels/attention/backward_sm90.h"
#include "kernels/attention/hopper_gather.cuh"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

// Where a block that takes whole segments sums up 64 columns of dq of 64 queries: a warpgroup's accumulators, four of a
// thread side by side, as they lie in registers; the next half follows. Only ever touched by the same thread.
template <class S>
__device__ inline float4* parts_of(const Problem& p, int queries, int half) {
  const int thread = opaque(threadIdx.x % kGroup),
            block = opaque(static_cast<int>(blockIdx.x)) * p.parts_blocks + queries;
  return reinterpret_cast<float4*>(p.dq_parts + block * int64_t{64 * S::kD}) + half * 8 * kGroup + thread;
}
// first: nothing is there yet. kKept: other lines are to leave the L2 cache before these.
template <bool kKept>
__device__ inline void add_parts(float4* to, const float (&dq)[32], bool first) {
  uint64_t policy = 0;
  if (kKept) asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float4* at = to + c * kGroup;
    const float* x = &dq[4 * c];
    if (kKept && first)
      asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "f"(x[0]), "f"(x[1]),
                   "f"(x[2]), "f"(x[3]), "l"(policy)
                   : "memory");
    else if (kKept)
      asm volatile("red.relaxed.gpu.global.add.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "f"(x[0]),
                   "f"(x[1]), "f"(x[2]), "f"(x[3]), "l"(policy)
                   : "memory");
    else if (first)
      asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                   : "memory");
    else
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x[0]), "f"(x[1]),
                   "f"(x[2]), "f"(x[3])
                   : "memory");
  }
}
template <int kN>
__device__ inline void load_parts(float (&dq)[kN], const float4* from) {
#pragma unroll
  for (int c = 0; c < kN / 4; ++c)
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(dq[4 * c]), "=f"(dq[4 * c + 1]), "=f"(dq[4 * c + 2]), "=f"(dq[4 * c + 3])
                 : "l"(from + c * kGroup)
                 : "memory");
}

// Two meet at a block of the ring, by all lanes of a warp each: claim() asks who comes first, is_first() has the
// answer, and returns for the second one when the first has written; leave() when the caller has.
[[maybe_unused]] __device__ inline unsigned claim(const RingBlock& block, const Problem& p, int warp) {
  const unsigned nobody = block.use * kMeeting;
  unsigned before = nobody;
  // Relaxed, as SharedSums::wait: the second one reads what the first has written by load_coherent, in the L2 cache.
  if (threadIdx.x % 32 == 0)
    asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(before)
                 : "l"(block.meeting(p, warp)), "r"(nobody), "r"(nobody + 1)
                 : "memory");
  return before;
}
[[maybe_unused]] __device__ inline bool is_first(const RingBlock& block, const Problem& p, int warp, unsigned before) {
  const unsigned nobody = block.use * kMeeting;
  // Who met there last may not have left yet.
  for (const Spin spin(SpinSite::kMeeting, static_cast<uint32_t>(block.place));
       before != nobody && before != nobody + 2; spin.again())
    before = claim(block, p, warp);
  __syncwarp();
  return warp_uniform(static_cast<int>(before - nobody)) == 0;
}
[[maybe_unused]] __device__ inline void leave(const RingBlock& block, const Problem& p, int warp, bool first) {
  __syncwarp();
  if (threadIdx.x % 32 != 0) return;
  if (first) {
    store_release(block.meeting(p, warp), block.use * kMeeting + 2);
  } else {  // Nobody reads what it wrote, and the sums have been read.
    store_relaxed(block.meeting(p, warp), (block.use + 1) * kMeeting);
    store_relaxed(block.turn(p, warp), (block.use + 1) * kUse);
  }
}

// Pieces of 16 bytes of rows lane / 4 and lane / 4 + 8 of a warp's rows of 64 columns, in place of an accumulator:
// piece[half][i] is chunk 4 i + lane % 4 of the row, rounded to bf16.
[[maybe_unused]] __device__ inline void pieces_of(uint4 (&piece)[2][2], const float (&acc)[32], float factor) {
  const bool odd = threadIdx.x % 2 != 0, upper = threadIdx.x % 4 >= 2;
  const auto swap = [](uint32_t& a, uint32_t& b, bool second, int distance) {
    // Of lanes `distance` apart the first keeps a and gets the other's a as b, the second keeps b.
    const uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, second ? a : b, distance);
    (second ? a : b) = got;
  };
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        w[j] = pack_bf16(acc[16 * i + 4 * j + 2 * half] * factor, acc[16 * i + 4 * j + 2 * half + 1] * factor);
      swap(w[0], w[1], odd, 1);
      swap(w[2], w[3], odd, 1);
      swap(w[0], w[2], upper, 2);
      swap(w[1], w[3], upper, 2);
      piece[half][i] = make_uint4(w[0], w[1], w[2], w[3]);
    }
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

// Scores s of keys by queries, columns from kFirst to kEnd, become probabilities. hide: keys past the end, and those
// that queries do not see yet, begin being the first query. Queries past the end have statistics of zero, as they are
// zeros themselves: they add nothing.
template <class S, int kFirst, int kEnd>
__device__ inline void compute_probabilities(float (&s)[S::kStep / 2], const Problem& p, uint32_t lse,
                                             const SlotView<S>& slot, bool hide, int begin, int row) {
  const int lane = threadIdx.x % 32;
  if (hide) {
    const int at = opaque(row), column = begin + 2 * opaque(lane % 4), rows = slot.rows();
    const int hidden[2] = {(at < rows ? slot.bound(at) : INT_MAX) - column,
                           (at + 8 < rows ? slot.bound(at + 8) : INT_MAX) - column};
#pragma unroll
    for (int i = kFirst / 2; i < kEnd / 2; ++i)
      if (8 * (i / 4) + i % 2 < hidden[i / 2 % 2]) s[i] = -INFINITY;
  }
#pragma unroll
  for (int j = kFirst / 8; j < kEnd / 8; ++j) {
    const float2 two = load_pair(lse + 8 * (lane % 4) + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(s[4 * j + i] * p.scale_log2 - (i % 2 == 0 ? two.x : two.y));
  }
}

// Gradients of scores as operands from probabilities s and from dout v, whose product comes into ds, unless it is on
// its way there (kStarted), and dv += probabilities dout. hand_over(gradients): best before that product is started
// with three warpgroups, while it runs with two.
template <class S, bool kStarted, class HandOver>
__device__ inline void compute_gradients(uint32_t (&gradients)[S::kStep / 16][4], const float (&s)[S::kStep / 2],
                                         float (&ds)[S::kStep / 2], float (&dv)[S::kD / 2], uint32_t values,
                                         uint32_t douts, uint32_t deltas, int group_first, const HandOver& hand_over) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const int lane = threadIdx.x % 32;
  uint32_t operand[kStep / 16][4];
  if (!kStarted) {
    warpgroup_fence_operand(ds);
    warpgroup_arrive();
    gemm_ss<kStep, S::kRows, kStep, kD>(ds, values, group_first, douts);
    warpgroup_commit();
  }
  warpgroup_wait<0>();
  warpgroup_fence_operand(ds);
#pragma unroll
  for (int j = 0; j < kStep / 8; ++j) {
    const float2 delta = load_pair(deltas + 8 * (lane % 4) + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) ds[4 * j + i] = s[4 * j + i] * (ds[4 * j + i] - (i % 2 == 0 ? delta.x : delta.y));
    if (j % 2 != 0)
      accumulator_to_a_fragment(operand[j / 2], s, j / 2), accumulator_to_a_fragment(gradients[j / 2], ds, j / 2);
  }
  warpgroup_fence_operand(gradients);
  if constexpr (kD == 64) hand_over(gradients);
  warpgroup_fence_operand(dv);
  warpgroup_fence_operand(operand);
  warpgroup_arrive();
  gemm_rs<kStep, kStep, kD>(dv, operand, douts, true);
  warpgroup_commit();
  if constexpr (kD > 64) hand_over(gradients);
  warpgroup_wait<0>();
  warpgroup_fence_operand(dv);
  warpgroup_fence_operand(operand);
}

// dq of a tile's blocks of queries where blocks of threads share the sums. By each warp of the warpgroup that computes
// it.
template <class S>
struct SharedSums {
  static constexpr int kHalves = S::kD / 64;  // dq comes 64 columns at a time
  const Problem& p;
  const Memory<S>& memory;
  const SlotView<S>& slot;
  int warp;

  struct Place {
    RingBlock block;
    int tile;
    bool first;  // no other tile adds to the block before
    __device__ unsigned turn() const { return block.use * kUse + (first ? 0 : tile + 2); }
  };
  __device__ Place place_of(int block) const {
    const uint4 order = load_chunk(slot.order());
    return {RingBlock(p, static_cast<int>(order.y), static_cast<int>(order.z), block), static_cast<int>(order.w),
            block * kQueryBlock < static_cast<int>(order.x)};
  }
  // A look at whose turn it is, for wait() later.
  __device__ unsigned look(int block) const { return load_relaxed(place_of(block).block.turn(p, warp)); }
  // Until it is this tile's. The loads are relaxed where the memory model asks for an acquire. It holds on the
  // hardware: what comes after depends on the value by a branch, and loads and reductions are not begun before a branch
  // is decided; they are volatile, so that the compiler keeps their order; and all of them, and the other tile's before
  // its release, are performed in the L2 cache, so that L1 has no copy that an acquire would have to drop. Acquiring
  // costs 3 % of dense backward at 16,384 tokens.
  __device__ void wait(int block, unsigned seen) const {
    const Place place = place_of(block);
    for (const Spin spin(SpinSite::kTurn, static_cast<uint32_t>(block)); seen != place.turn(); spin.again())
      seen = load_relaxed(place.block.turn(p, warp));
    __syncwarp();
  }
  __device__ void tell(int block) const {
    const Place place = place_of(block);
    __syncwarp();
    if (threadIdx.x % 32 == 0) place.block.tell(p, place.tile, warp, memory.fuses_norm());
  }
  // dq into the sums, or where they are complete with it to where it belongs. comes_first: what it returned for the
  // first half.
  __device__ bool add(float (&dq)[32], int block, int half, bool comes_first) const {
    const Place place = place_of(block);
    float4* sums = place.block.sums(p, S::kD) + half * 8 * kGroup;
    if (place.tile > 0) {
      add_parts<false>(sums, dq, place.first);
      return false;
    }
    const bool asks = half == 0 && memory.fuses_norm();
    const unsigned before = asks ? claim(place.block, p, warp) : 0;
    if (!place.first) {
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        float others[16];
        load_parts(others, sums + batch * 4 * kGroup);
#pragma unroll
        for (int i = 0; i < 16; ++i) dq[16 * batch + i] += others[i];
      }
    }
    if (half == 0) comes_first = !asks || is_first(place.block, p, warp, before);
    uint4 piece[2][2];
    pieces_of(piece, dq, p.scale);
    const int lane = opaque(threadIdx.x % 32), first = 16 * warp + lane / 4, head = slot.head();
    const int last = slot.end() - 1 - block * kQueryBlock;
    const int* index = p.q_index + slot.queries() + block * kQueryBlock;
    __nv_bfloat16* data = p.dq.data + head / p.H * p.dq.batch + head % p.H * p.dq.head + 64 * half + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (first + 8 * i > last) continue;
      __nv_bfloat16* row = data + index[first + 8 * i] * p.dq.token;
      const bool inside[2] = {64 * half + lane % 4 * 8 < p.D, 64 * half + 32 + lane % 4 * 8 < p.D};
      if (!comes_first) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const uint4 there[2] = {inside[0] ? load_coherent(row) : none, inside[1] ? load_coherent(row + 32) : none};
        piece[i][0] = sum_of(piece[i][0], there[0]), piece[i][1] = sum_of(piece[i][1], there[1]);
      }
      if (inside[0]) store_global(row, piece[i][0]);
      if (inside[1]) store_global(row + 32, piece[i][1]);
    }
    if (half + 1 == kHalves && memory.fuses_norm()) leave(place.block, p, warp, comes_first);
    return comes_first;
  }
};

// The product for 64 columns of dq of a block of queries: gradients of scores of all of the tile's keys are in
// exchange.
template <class S>
__device__ inline void start_dq(float (&dq)[32], uint32_t exchange, uint32_t keys, int half) {
  warpgroup_fence_operand(dq);
  warpgroup_arrive();
  gemm_ss_tn<S::kRows, 64>(dq, exchange, keys + half * S::kRows * 128);
  warpgroup_commit();
}

// Warpgroups hand their gradients of scores to that one among them whose turn it is to compute dq of the step's
// queries, two steps later, through as many buffers as there are warpgroups: it is the same one for the same queries in
// every tile of keys.
template <class S, bool kWhole>
__device__ inline void compute_keys(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep;
  using Exchange = Tile<S::kRows, kStep>;
  const int group = warp_uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = warp_uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  uint32_t turns = 0;  // of the buffers of the exchange, a bit each
  PipelineState<S::kTileStages> tile_pipeline;
  PipelineState<S::kStages> pipeline;
  while (true) {
    barrier_wait(tile_pipeline.barrier(memory.tile_full()), tile_pipeline.parity());
    fence_proxy_async();
    const SlotView<S> slot{memory.slot(tile_pipeline.stage)};
    if (warp_uniform(slot.head()) < 0) break;
    const SharedSums<S> sums{p, memory, slot, warp};
    const uint32_t keys = memory.own(tile_pipeline.stage, 0), values = memory.own(tile_pipeline.stage, 1);
    float dk[kD / 2] = {}, dv[kD / 2] = {};
    // Blocks of queries, a step each. Every second tile of a whole segment goes backwards.
    const int first_block = warp_uniform(slot.begin()) / kStep,
              end_block = (warp_uniform(slot.end()) + kStep - 1) / kStep;
    const int blocks = max(end_block - first_block, 0);
    const bool backwards = kWhole && warp_uniform(slot.number()) % 2 != 0;
    const int by = backwards ? -1 : 1;
    // From where on the group's keys are seen, and all of them by all queries of a block.
    const int rows_of_group = warp_uniform(slot.rows()) - group_first;
    const int seen_from = rows_of_group > 0 ? warp_uniform(slot.bound(group_first)) / kStep : INT_MAX;
    const int bare_from =
        rows_of_group >= 64 ? (warp_uniform(slot.bound(group_first + 63)) + kStep - 1) / kStep : INT_MAX;
    const auto is_mine = [&](int block) { return block % S::kGroups == group; };
    // dq of the block, with work(half) to do while the products for each 64 columns run.
    const auto pay = [&](int owed, const auto& work) {
      barrier_wait(memory.exchange_full() + 8 * group, (turns >> group & 1) ^ 1);
      const unsigned seen = kWhole ? 0 : sums.look(owed);
      [[maybe_unused]] bool first = false;
#pragma unroll
      for (int half = 0; half < kD / 64; ++half) {
        float dq[32];
        start_dq<S>(dq, memory.extra() + group * Exchange::kBytes, keys, half);
        work(half);
        if (!kWhole && half == 0) sums.wait(owed, seen);
        warpgroup_wait<0>();
        warpgroup_fence_operand(dq);
        if (half + 1 == kD / 64) release(memory.exchange_empty() + 8 * group);
        if constexpr (kWhole)
          add_parts<true>(parts_of<S>(p, owed, half), dq, warp_uniform(slot.number()) == 0);
        else
          first = sums.add(dq, owed, half, first);
      }
    };
    // What the gathering warpgroup does not tell as it comes too late for it.
    const auto tell = [&](int block) {
      if (!kWhole && block >= end_block - S::kTold) sums.tell(block);
    };
    float s[kStep / 2];
    const auto start_scores_of = [&](int stage) {
      warpgroup_fence_operand(s);
      warpgroup_arrive();
      gemm_ss<kStep, S::kRows, kStep, kD>(s, keys, group_first, memory.other(stage, 0));
      warpgroup_commit();
    };
    if (blocks > 0) {
      barrier_wait(pipeline.barrier(memory.full()), pipeline.parity());
      fence_proxy_async();
      start_scores_of(pipeline.stage);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    }
#pragma unroll 1
    for (int step = 0, block = backwards ? end_block - 1 : first_block; step < blocks; ++step, block += by) {
      const auto has_been = [&](int back) { return step >= back && is_mine(block - back * by); };
      const int taker = block % S::kGroups;
      const bool owes = has_been(2);
      const uint32_t empty = pipeline.barrier(memory.empty());
      const auto hand_over = [&](const uint32_t(&gradients)[kStep / 16][4]) {
        barrier_wait(memory.exchange_empty() + 8 * taker, (turns >> taker & 1) ^ 1);
        const int of_warp = opaque(lane);
        const uint32_t corner =
            Exchange::at(memory.extra() + taker * Exchange::kBytes, warp_first + of_warp % 16, of_warp / 16);
#pragma unroll
        for (int k = 0; k < kStep / 16; ++k) stmatrix(Exchange::step(corner, 0, 2 * k), gradients[k]);
        fence_proxy_async();
        release(memory.exchange_full() + 8 * taker);
        turns ^= 1u << taker;
      };
      // The next step's scores come out with this one's last products. After the last step nobody reads them.
      const auto finish_step = [&] {
        if (!owes && has_been(3)) tell(block - 3);
        if (step + 1 < blocks) {
          pipeline.next();
          barrier_wait(pipeline.barrier(memory.full()), pipeline.parity());
          fence_proxy_async();
        }
        start_scores_of(pipeline.stage);
        warpgroup_wait<0>();
        warpgroup_fence_operand(s);
      };
      if (block >= seen_from) {
        uint32_t gradients[kStep / 16][4];
        float ds[kStep / 2];
        const uint32_t queries = memory.other(pipeline.stage, 0), statistics = memory.statistics(pipeline.stage);
        const uint32_t douts = memory.other(pipeline.stage, 1), deltas = statistics + 4 * kStep;
        const auto probabilities = [&]<int kFirst, int kEnd>() {
          compute_probabilities<S, kFirst, kEnd>(s, p, statistics, slot, block < bare_from, block * kStep, row);
        };
        if (owes) {
          pay(block - 2 * by, [&](int half) {
            if constexpr (kD == 64)
              probabilities.template operator()<0, kStep>();
            else if (half == 0)
              probabilities.template operator()<0, kStep / 2>();
            else
              probabilities.template operator()<kStep / 2, kStep>();
          });
          compute_gradients<S, false>(gradients, s, ds, dv, values, douts, deltas, group_first, hand_over);
        } else if constexpr (kD == 64) {
          probabilities.template operator()<0, kStep>();
          compute_gradients<S, false>(gradients, s, ds, dv, values, douts, deltas, group_first, hand_over);
        } else {
          warpgroup_fence_operand(ds);
          warpgroup_arrive();
          gemm_ss<kStep, S::kRows, kStep, kD>(ds, values, group_first, douts);
          warpgroup_commit();
          probabilities.template operator()<0, kStep>();
          compute_gradients<S, true>(gradients, s, ds, dv, values, douts, deltas, group_first, hand_over);
        }
        warpgroup_fence_operand(dk);
        warpgroup_fence_operand(gradients);
        warpgroup_arrive();
        gemm_rs<kStep, kStep, kD>(dk, gradients, queries, true);
        warpgroup_commit();
        finish_step();
        warpgroup_fence_operand(dk);
        warpgroup_fence_operand(gradients);
      } else {
        if (owes) pay(block - 2 * by, [](int) {});
        const uint32_t zeros[kStep / 16][4] = {};
        hand_over(zeros);
        finish_step();
      }
      release(empty);
    }
    if (blocks > 0) {
      pipeline.next();
      const int last = backwards ? first_block : end_block - 1, owed = is_mine(last) ? last : last - by;
      if (is_mine(owed) && (owed == last || blocks > 1)) pay(owed, [](int) {});
    }
    if constexpr (!kWhole) {
      for (int block = max(end_block - 3, first_block); block < end_block; ++block)
        if (is_mine(block)) tell(block);
    }
    // No warp of the group reads its rows of the values any more. Other groups may still read keys.
    sync_threads(2 + group, kGroup);
    const auto token_of = [&](int at) { return slot.token(at); };
    const int rows = warp_uniform(slot.rows()), head = warp_uniform(slot.head());
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    if (memory.fuses_norm()) {
      // The tile's rows are queries of the segment as well.
      const int block_of_rows = warp_uniform(slot.number()) * S::kGroups + group;
      float dq[kD / 2] = {};
      // Their dq is complete: later keys are not seen by them. Asked for ahead, where there are registers for it.
      const auto load_dq = [&] {
        if (block_of_rows < end_block) load_parts(dq, parts_of<S>(p, block_of_rows, 0));
      };
      if constexpr (kWhole && kD == 64) load_dq();
      [[maybe_unused]] const RingBlock block = sums.place_of(block_of_rows).block;
      [[maybe_unused]] unsigned before = 0;
      if (!kWhole && block_of_rows < end_block) before = claim(block, p, warp);
      scatter<typename S::Own>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      if constexpr (kWhole && kD > 64) load_dq();
      const uint32_t norms = memory.own_statistics(tile_pipeline.stage);
      const float inverse_norm[2] = {__int_as_float(load_int(norms + 4 * row)),
                                     __int_as_float(load_int(norms + 4 * (row + 8)))};
      through_norm<S>(dk, keys, row, inverse_norm, p.scale);
      if constexpr (kWhole) {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
        scatter<typename S::Own>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
      } else if (block_of_rows < end_block) {
        const bool first = is_first(block, p, warp, before);
        if (first)
          scatter<typename S::Own>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
        else
          scatter<typename S::Own, true>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
        leave(block, p, warp, first);
      }
    } else {
      scatter<typename S::Own>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      scatter<typename S::Own>(dk, scale, values, warp_first, rows, head, p.dk, p, token_of);
      if constexpr (kWhole) {
        if (warp_uniform(slot.last()) != 0) {
          const int* index = p.q_index + warp_uniform(slot.queries());
          const int first_seen = warp_uniform(slot.first_seen());
          const int end = warp_uniform(slot.end());
          for (int at = group * kStep; at < end; at += S::kGroups * kStep) {
            float dq[kD / 2] = {};
            if (at >= first_seen) load_parts(dq, parts_of<S>(p, at / kStep, 0));
            scatter<typename S::Own>(dq, scale, values, warp_first, group_first + end - at, head, p.dq, p,
                                     [&](int i) { return index[at + i - group_first]; });
          }
        }
      }
    }
    release(tile_pipeline.barrier(memory.tile_empty()));
    tile_pipeline.next();
  }
}

template <class S, bool kWhole>
__global__ void __launch_bounds__(S::kThreads, 1)
    attention_backward_sm90_kernel(const __grid_constant__ Problem p, int list) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers(p.inverse_norm != nullptr && p.tile_count[kUntiedHeads] == 0);
  if (warp_uniform(threadIdx.x / kGroup) == 0) {
    setmaxnreg_dec<S::kGather>();
    gather<S, Side::kKeys, kWhole>(p, memory, list, p.k, p.v, p.q, p.dout);
  } else {
    setmaxnreg_inc<S::kCompute>();
    compute_keys<S, kWhole>(p, memory);
  }
#endif
}

using Keys64 = Shape<64, 3, 2, 2, 64, 3, 32, 160, 3 * 192 * 64 * 2>;
using Keys128 = Shape<128, 2, 2, 1, 64, 3, 40, 232, 2 * 128 * 64 * 2>;

}  // namespace

void backward_keys(Stream stream, const Problem& p, const Segments& s, bool only_multi_block) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Keys64>(stream, kOp, attention_backward_sm90_kernel<Keys64, false>,
                          only_multi_block ? kMultiBlockWideKeyTiles : kWideKeyTiles, s.k_wide_tiles, p);
  else
    launch_blocks<Keys128>(stream, kOp, attention_backward_sm90_kernel<Keys128, false>,
                           only_multi_block ? kMultiBlockKeyTiles : kKeyTiles, s.k_tiles, p);
}

void backward_single_block_segments(Stream stream, const Problem& p, const Segments& s) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Keys64>(stream, kOp, attention_backward_sm90_kernel<Keys64, true>, kSingleBlockSegments,
                          s.single_block_segments, p);
  else
    launch_blocks<Keys128>(stream, kOp, attention_backward_sm90_kernel<Keys128, true>, kSingleBlockSegments,
                           s.single_block_segments, p);
}

}  // namespace scfa::gpu::sm90

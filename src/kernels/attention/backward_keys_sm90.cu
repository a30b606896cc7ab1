// dq, dk and dv for Hopper, by key tiles, which sum up dk and dv. Scores are transposed, keys by queries, so that
// probabilities become an A fragment without leaving their registers. Gradients of scores (ds) go through shared
// memory, because dq sums over keys. dq is summed up in f32 in buffers that stay in the L2 cache. Blocks share the
// tiles of a multi-block segment, and its buffer (dq_ring). A single-block segment may be taken whole by one block,
// tile by tile; the block then has a buffer of its own (dq_accum).
#include <climits>

#include "kernels/attention/backward_sm90.h"
#include "kernels/attention/hopper_gather.cuh"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

// Where a block that takes whole segments sums up 64 columns of dq of 64 queries. The layout is that of a warpgroup's
// accumulators in registers, four of a thread side by side; the other 64 columns follow. A word is only ever accessed
// by the same thread.
template <class Traits>
__device__ inline float4* dq_accum_of(const AttentionParams& p, int queries, int half) {
  const int thread = opaque(threadIdx.x % kGroup),
            block = opaque(static_cast<int>(blockIdx.x)) * p.dq_accum_blocks + queries;
  return reinterpret_cast<float4*>(p.dq_accum + block * int64_t{64 * Traits::kD}) + half * 8 * kGroup + thread;
}
// first: nothing is there yet. kKept: other lines are to leave the L2 cache before these.
template <bool kKept>
__device__ inline void add_to_dq_accum(float4* to, const float (&dq)[32], bool first) {
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
__device__ inline void load_dq_accum(float (&dq)[kN], const float4* from) {
#pragma unroll
  for (int c = 0; c < kN / 4; ++c)
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(dq[4 * c]), "=f"(dq[4 * c + 1]), "=f"(dq[4 * c + 2]), "=f"(dq[4 * c + 3])
                 : "l"(from + c * kGroup)
                 : "memory");
}

// The merge of dq and the gradient through the keys at a block of the ring, by all lanes of a warp on either side.
// try_acquire_merge() tries to be the first. is_first() says whether that succeeded; for the second one it returns when
// the first has written. release_merge() is called when the caller has written.
[[maybe_unused]] __device__ inline unsigned try_acquire_merge(const RingBlock& block, const AttentionParams& p,
                                                              int warp) {
  const unsigned nobody = block.use * kMergeStates;
  unsigned before = nobody;
  // Relaxed, as SharedSums::wait: the second one reads what the first has written by load_coherent, in the L2 cache.
  if (threadIdx.x % 32 == 0)
    asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(before)
                 : "l"(block.dq_dk_merge_semaphore(p, warp)), "r"(nobody), "r"(nobody + 1)
                 : "memory");
  return before;
}
[[maybe_unused]] __device__ inline bool is_first(const RingBlock& block, const AttentionParams& p, int warp,
                                                 unsigned before) {
  const unsigned nobody = block.use * kMergeStates;
  // The second one of the ring's last round may not have released the semaphore yet.
  for (const Spin spin(SpinSite::kMeeting, static_cast<uint32_t>(block.place));
       before != nobody && before != nobody + 2; spin.again())
    before = try_acquire_merge(block, p, warp);
  __syncwarp();
  return warp_uniform(static_cast<int>(before - nobody)) == 0;
}
[[maybe_unused]] __device__ inline void release_merge(const RingBlock& block, const AttentionParams& p, int warp,
                                                      bool first) {
  __syncwarp();
  if (threadIdx.x % 32 != 0) return;
  if (first) {
    store_release(block.dq_dk_merge_semaphore(p, warp), block.use * kMergeStates + 2);
  } else {  // Nobody reads what it wrote, and the sums have been read.
    store_relaxed(block.dq_dk_merge_semaphore(p, warp), (block.use + 1) * kMergeStates);
    store_relaxed(block.dq_semaphore(p, warp), (block.use + 1) * kUse);
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

// The backward pass of k = q / |q|: replaces dk, times scale, by what it adds to dq, (dk - k (k . dk)) / |q|. keys: the
// tile the keys lie in; row: the thread's first.
template <class Traits>
__device__ inline void l2_normalise_backward(float (&dk)[Traits::kD / 2], uint32_t keys, int row,
                                             const float (&inverse_norm)[2], float scale) {
  constexpr int kD = Traits::kD;
  const int lane = threadIdx.x % 32;
  const auto key_pair = [&](int j, int half) {
    return static_cast<uint32_t>(load_int(Traits::OuterTile::at(keys, row + 8 * half, j) + lane % 4 * 4));
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

// Scores s of keys by queries become probabilities, in columns from kFirst to kEnd. masked: keys past the end, and
// pairs where the query does not see the key, get -inf first; begin: the first query. Queries past the end are zeros
// and have statistics of zero: they add nothing.
template <class Traits, int kFirst, int kEnd>
__device__ inline void compute_probabilities(float (&s)[Traits::kInnerRows / 2], const AttentionParams& p, uint32_t lse,
                                             const WorkTileInfoView<Traits>& work_tile, bool masked, int begin,
                                             int row) {
  const int lane = threadIdx.x % 32;
  if (masked) {
    const int at = opaque(row), column = begin + 2 * opaque(lane % 4), rows = work_tile.rows();
    const int hidden[2] = {(at < rows ? work_tile.bound(at) : INT_MAX) - column,
                           (at + 8 < rows ? work_tile.bound(at + 8) : INT_MAX) - column};
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

// Gradients of scores as A fragments, from probabilities s and from dout v; and dv += probabilities dout. The product
// dout v is computed here into ds, unless the caller has issued it (kStarted). store_ds(gradients) is called before the
// product for dv is issued with three consumer warpgroups, and while it runs with two: what is fastest.
template <class Traits, bool kStarted, class StoreDs>
__device__ inline void compute_gradients(uint32_t (&gradients)[Traits::kInnerRows / 16][4],
                                         const float (&s)[Traits::kInnerRows / 2], float (&ds)[Traits::kInnerRows / 2],
                                         float (&dv)[Traits::kD / 2], uint32_t values, uint32_t douts, uint32_t deltas,
                                         int group_first, const StoreDs& store_ds) {
  constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows;
  const int lane = threadIdx.x % 32;
  uint32_t operand[kBlockM / 16][4];
  if (!kStarted) {
    warpgroup_fence_operand(ds);
    warpgroup_arrive();
    gemm_ss<kBlockM, kBlockN, kBlockM, kD>(ds, values, group_first, douts);
    warpgroup_commit();
  }
  warpgroup_wait<0>();
  warpgroup_fence_operand(ds);
#pragma unroll
  for (int j = 0; j < kBlockM / 8; ++j) {
    const float2 delta = load_pair(deltas + 8 * (lane % 4) + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) ds[4 * j + i] = s[4 * j + i] * (ds[4 * j + i] - (i % 2 == 0 ? delta.x : delta.y));
    if (j % 2 != 0)
      accumulator_to_a_fragment(operand[j / 2], s, j / 2), accumulator_to_a_fragment(gradients[j / 2], ds, j / 2);
  }
  warpgroup_fence_operand(gradients);
  if constexpr (kD == 64) store_ds(gradients);
  warpgroup_fence_operand(dv);
  warpgroup_fence_operand(operand);
  warpgroup_arrive();
  gemm_rs<kBlockM, kBlockM, kD>(dv, operand, douts, true);
  warpgroup_commit();
  if constexpr (kD > 64) store_ds(gradients);
  warpgroup_wait<0>();
  warpgroup_fence_operand(dv);
  warpgroup_fence_operand(operand);
}

// dq of the blocks of queries of a key tile, where thread blocks share the sums. By each warp of the warpgroup that
// computes it.
template <class Traits>
struct SharedSums {
  static constexpr int kHalves = Traits::kD / 64;  // dq comes 64 columns at a time
  const AttentionParams& p;
  const SharedStorage<Traits>& storage;
  const WorkTileInfoView<Traits>& work_tile;
  int warp;

  struct DqBlockCoord {
    RingBlock block;
    int tile;
    bool first;  // no other tile adds to the block before
    // The value of the semaphore from which on this tile may add.
    __device__ unsigned awaited_value() const { return block.use * kUse + (first ? 0 : tile + 2); }
  };
  __device__ DqBlockCoord coord_of(int block) const {
    const uint4 order = load_chunk(work_tile.order());
    return {RingBlock(p, static_cast<int>(order.y), static_cast<int>(order.z), block), static_cast<int>(order.w),
            block * kQueryBlock < static_cast<int>(order.x)};
  }
  // Reads the semaphore, for wait() later.
  __device__ unsigned look(int block) const { return load_relaxed(coord_of(block).block.dq_semaphore(p, warp)); }
  // Waits until this tile may add. The loads are relaxed where the memory model asks for an acquire. This works on the
  // hardware for three reasons. What comes after depends on the value by a branch, and loads and reductions are not
  // begun before a branch is decided. They are volatile, so that the compiler keeps their order. All of them, and the
  // other tile's before its release, are performed in the L2 cache, so that L1 has no copy that an acquire would have
  // to drop. Acquiring costs 3 % of dense backward at 16,384 tokens.
  __device__ void wait(int block, unsigned seen) const {
    const DqBlockCoord coord = coord_of(block);
    for (const Spin spin(SpinSite::kTurn, static_cast<uint32_t>(block)); seen != coord.awaited_value(); spin.again())
      seen = load_relaxed(coord.block.dq_semaphore(p, warp));
    __syncwarp();
  }
  __device__ void signal(int block) const {
    const DqBlockCoord coord = coord_of(block);
    __syncwarp();
    if (threadIdx.x % 32 == 0) coord.block.signal(p, coord.tile, warp, storage.fuses_norm());
  }
  // Adds dq to the sums, or where this completes them, writes dq. comes_first: what it returned for the first half.
  __device__ bool add(float (&dq)[32], int block, int half, bool comes_first) const {
    const DqBlockCoord coord = coord_of(block);
    float4* sums = coord.block.sums(p, Traits::kD) + half * 8 * kGroup;
    if (coord.tile > 0) {
      add_to_dq_accum<false>(sums, dq, coord.first);
      return false;
    }
    const bool asks = half == 0 && storage.fuses_norm();
    const unsigned before = asks ? try_acquire_merge(coord.block, p, warp) : 0;
    if (!coord.first) {
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        float others[16];
        load_dq_accum(others, sums + batch * 4 * kGroup);
#pragma unroll
        for (int i = 0; i < 16; ++i) dq[16 * batch + i] += others[i];
      }
    }
    if (half == 0) comes_first = !asks || is_first(coord.block, p, warp, before);
    uint4 piece[2][2];
    pieces_of(piece, dq, p.scale);
    const int lane = opaque(threadIdx.x % 32), first = 16 * warp + lane / 4, head = work_tile.head();
    const int last = work_tile.end() - 1 - block * kQueryBlock;
    const int* index = p.q_index + work_tile.queries() + block * kQueryBlock;
    __nv_bfloat16* data =
        p.dq.data + head / p.H * p.dq.batch_stride + head % p.H * p.dq.head_stride + 64 * half + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (first + 8 * i > last) continue;
      __nv_bfloat16* row = data + index[first + 8 * i] * p.dq.row_stride;
      const bool inside[2] = {64 * half + lane % 4 * 8 < p.D, 64 * half + 32 + lane % 4 * 8 < p.D};
      if (!comes_first) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const uint4 there[2] = {inside[0] ? load_coherent(row) : none, inside[1] ? load_coherent(row + 32) : none};
        piece[i][0] = sum_of(piece[i][0], there[0]), piece[i][1] = sum_of(piece[i][1], there[1]);
      }
      if (inside[0]) store_global(row, piece[i][0]);
      if (inside[1]) store_global(row + 32, piece[i][1]);
    }
    if (half + 1 == kHalves && storage.fuses_norm()) release_merge(coord.block, p, warp, comes_first);
    return comes_first;
  }
};

// Issues the product for 64 columns of dq of a block of queries. exchange: ds of all keys of the tile.
template <class Traits>
__device__ inline void start_dq(float (&dq)[32], uint32_t exchange, uint32_t keys, int half) {
  warpgroup_fence_operand(dq);
  warpgroup_arrive();
  gemm_ss_tn<Traits::kOuterRows, 64>(dq, exchange, keys + half * Traits::kOuterRows * 128);
  warpgroup_commit();
}

// All consumer warpgroups store ds of a step for one among them, the dq warpgroup of the step, which computes dq of the
// step's queries two steps later. There are as many buffers of ds as warpgroups. The dq warpgroup of the same queries
// is the same in every key tile.
template <class Traits, bool kWhole>
__device__ inline void compute_keys(const AttentionParams& p, const SharedStorage<Traits>& storage) {
  constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows;
  using Exchange = Tile<kBlockN, kBlockM>;
  const int group = warp_uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = warp_uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  uint32_t exchange_phases = 0;  // of the buffers of ds, one bit each
  PipelineState<Traits::kTileStages> tile_pipeline;
  PipelineState<Traits::kStages> pipeline;
  while (true) {
    barrier_wait(tile_pipeline.barrier(storage.tile_full()), tile_pipeline.parity());
    fence_proxy_async();
    const WorkTileInfoView<Traits> work_tile{storage.work_tile(tile_pipeline.stage)};
    if (warp_uniform(work_tile.head()) < 0) break;
    const SharedSums<Traits> sums{p, storage, work_tile, warp};
    const uint32_t keys = storage.outer(tile_pipeline.stage, 0), values = storage.outer(tile_pipeline.stage, 1);
    float dk[kD / 2] = {}, dv[kD / 2] = {};
    // Blocks of queries, a step each. Every second tile of a whole segment goes backwards.
    const int first_block = warp_uniform(work_tile.begin()) / kBlockM,
              end_block = (warp_uniform(work_tile.end()) + kBlockM - 1) / kBlockM;
    const int blocks = max(end_block - first_block, 0);
    const bool backwards = kWhole && warp_uniform(work_tile.number()) % 2 != 0;
    const int by = backwards ? -1 : 1;
    // From where on the group's keys are seen, and all of them by all queries of a block.
    const int rows_of_group = warp_uniform(work_tile.rows()) - group_first;
    const int seen_from = rows_of_group > 0 ? warp_uniform(work_tile.bound(group_first)) / kBlockM : INT_MAX;
    const int bare_from =
        rows_of_group >= 64 ? (warp_uniform(work_tile.bound(group_first + 63)) + kBlockM - 1) / kBlockM : INT_MAX;
    const auto is_mine = [&](int block) { return block % Traits::kConsumerWarpgroups == group; };
    // dq of a block of queries whose ds has been stored; work(half) is done while the products for each 64 columns run.
    const auto compute_dq = [&](int pending_block, const auto& work) {
      barrier_wait(storage.exchange_full() + 8 * group, (exchange_phases >> group & 1) ^ 1);
      const unsigned seen = kWhole ? 0 : sums.look(pending_block);
      [[maybe_unused]] bool first = false;
#pragma unroll
      for (int half = 0; half < kD / 64; ++half) {
        float dq[32];
        start_dq<Traits>(dq, storage.extra() + group * Exchange::kBytes, keys, half);
        work(half);
        if (!kWhole && half == 0) sums.wait(pending_block, seen);
        warpgroup_wait<0>();
        warpgroup_fence_operand(dq);
        if (half + 1 == kD / 64) release(storage.exchange_empty() + 8 * group);
        if constexpr (kWhole)
          add_to_dq_accum<true>(dq_accum_of<Traits>(p, pending_block, half), dq, warp_uniform(work_tile.number()) == 0);
        else
          first = sums.add(dq, pending_block, half, first);
      }
    };
    // The last blocks, which the producer does not signal: its last step is less than kDqSignalLag later.
    const auto signal = [&](int block) {
      if (!kWhole && block >= end_block - Traits::kDqSignalLag) sums.signal(block);
    };
    float s[kBlockM / 2];
    const auto start_scores_of = [&](int stage) {
      warpgroup_fence_operand(s);
      warpgroup_arrive();
      gemm_ss<kBlockM, kBlockN, kBlockM, kD>(s, keys, group_first, storage.inner(stage, 0));
      warpgroup_commit();
    };
    if (blocks > 0) {
      barrier_wait(pipeline.barrier(storage.full()), pipeline.parity());
      fence_proxy_async();
      start_scores_of(pipeline.stage);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    }
#pragma unroll 1
    for (int step = 0, block = backwards ? end_block - 1 : first_block; step < blocks; ++step, block += by) {
      const auto has_been = [&](int back) { return step >= back && is_mine(block - back * by); };
      const int dq_warpgroup = block % Traits::kConsumerWarpgroups;
      const bool has_pending_block = has_been(2);
      const uint32_t empty = pipeline.barrier(storage.empty());
      const auto store_ds = [&](const uint32_t(&gradients)[kBlockM / 16][4]) {
        barrier_wait(storage.exchange_empty() + 8 * dq_warpgroup, (exchange_phases >> dq_warpgroup & 1) ^ 1);
        const int of_warp = opaque(lane);
        const uint32_t corner =
            Exchange::at(storage.extra() + dq_warpgroup * Exchange::kBytes, warp_first + of_warp % 16, of_warp / 16);
#pragma unroll
        for (int k = 0; k < kBlockM / 16; ++k) stmatrix(Exchange::step(corner, 0, 2 * k), gradients[k]);
        fence_proxy_async();
        release(storage.exchange_full() + 8 * dq_warpgroup);
        exchange_phases ^= 1u << dq_warpgroup;
      };
      // The next step's scores come out with this one's last products. After the last step nobody reads them.
      const auto finish_step = [&] {
        if (!has_pending_block && has_been(3)) signal(block - 3);
        if (step + 1 < blocks) {
          pipeline.next();
          barrier_wait(pipeline.barrier(storage.full()), pipeline.parity());
          fence_proxy_async();
        }
        start_scores_of(pipeline.stage);
        warpgroup_wait<0>();
        warpgroup_fence_operand(s);
      };
      if (block >= seen_from) {
        uint32_t gradients[kBlockM / 16][4];
        float ds[kBlockM / 2];
        const uint32_t queries = storage.inner(pipeline.stage, 0), statistics = storage.statistics(pipeline.stage);
        const uint32_t douts = storage.inner(pipeline.stage, 1), deltas = statistics + 4 * kBlockM;
        const auto probabilities = [&]<int kFirst, int kEnd>() {
          compute_probabilities<Traits, kFirst, kEnd>(s, p, statistics, work_tile, block < bare_from, block * kBlockM,
                                                      row);
        };
        if (has_pending_block) {
          compute_dq(block - 2 * by, [&](int half) {
            if constexpr (kD == 64)
              probabilities.template operator()<0, kBlockM>();
            else if (half == 0)
              probabilities.template operator()<0, kBlockM / 2>();
            else
              probabilities.template operator()<kBlockM / 2, kBlockM>();
          });
          compute_gradients<Traits, false>(gradients, s, ds, dv, values, douts, deltas, group_first, store_ds);
        } else if constexpr (kD == 64) {
          probabilities.template operator()<0, kBlockM>();
          compute_gradients<Traits, false>(gradients, s, ds, dv, values, douts, deltas, group_first, store_ds);
        } else {
          warpgroup_fence_operand(ds);
          warpgroup_arrive();
          gemm_ss<kBlockM, kBlockN, kBlockM, kD>(ds, values, group_first, douts);
          warpgroup_commit();
          probabilities.template operator()<0, kBlockM>();
          compute_gradients<Traits, true>(gradients, s, ds, dv, values, douts, deltas, group_first, store_ds);
        }
        warpgroup_fence_operand(dk);
        warpgroup_fence_operand(gradients);
        warpgroup_arrive();
        gemm_rs<kBlockM, kBlockM, kD>(dk, gradients, queries, true);
        warpgroup_commit();
        finish_step();
        warpgroup_fence_operand(dk);
        warpgroup_fence_operand(gradients);
      } else {
        if (has_pending_block) compute_dq(block - 2 * by, [](int) {});
        const uint32_t zeros[kBlockM / 16][4] = {};
        store_ds(zeros);
        finish_step();
      }
      release(empty);
    }
    if (blocks > 0) {
      pipeline.next();
      const int last = backwards ? first_block : end_block - 1, pending_block = is_mine(last) ? last : last - by;
      if (is_mine(pending_block) && (pending_block == last || blocks > 1)) compute_dq(pending_block, [](int) {});
    }
    if constexpr (!kWhole) {
      for (int block = max(end_block - 3, first_block); block < end_block; ++block)
        if (is_mine(block)) signal(block);
    }
    // No warp of the group reads its rows of the values any more. Other groups may still read keys.
    sync_threads(2 + group, kGroup);
    const auto token_of = [&](int at) { return work_tile.token(at); };
    const int rows = warp_uniform(work_tile.rows()), head = warp_uniform(work_tile.head());
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    if (storage.fuses_norm()) {
      // The tile's rows are queries of the segment as well.
      const int block_of_rows = warp_uniform(work_tile.number()) * Traits::kConsumerWarpgroups + group;
      float dq[kD / 2] = {};
      // Their dq is complete: later keys are not seen by them. Asked for ahead, where there are registers for it.
      const auto load_dq = [&] {
        if (block_of_rows < end_block) load_dq_accum(dq, dq_accum_of<Traits>(p, block_of_rows, 0));
      };
      if constexpr (kWhole && kD == 64) load_dq();
      [[maybe_unused]] const RingBlock block = sums.coord_of(block_of_rows).block;
      [[maybe_unused]] unsigned before = 0;
      if (!kWhole && block_of_rows < end_block) before = try_acquire_merge(block, p, warp);
      scatter<typename Traits::OuterTile>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      if constexpr (kWhole && kD > 64) load_dq();
      const uint32_t norms = storage.outer_statistics(tile_pipeline.stage);
      const float inverse_norm[2] = {__int_as_float(load_int(norms + 4 * row)),
                                     __int_as_float(load_int(norms + 4 * (row + 8)))};
      l2_normalise_backward<Traits>(dk, keys, row, inverse_norm, p.scale);
      if constexpr (kWhole) {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
        scatter<typename Traits::OuterTile>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
      } else if (block_of_rows < end_block) {
        const bool first = is_first(block, p, warp, before);
        if (first)
          scatter<typename Traits::OuterTile>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
        else
          scatter<typename Traits::OuterTile, true>(dk, one, values, warp_first, rows, head, p.dq, p, token_of);
        release_merge(block, p, warp, first);
      }
    } else {
      scatter<typename Traits::OuterTile>(dv, one, values, warp_first, rows, head, p.dv, p, token_of);
      scatter<typename Traits::OuterTile>(dk, scale, values, warp_first, rows, head, p.dk, p, token_of);
      if constexpr (kWhole) {
        if (warp_uniform(work_tile.last()) != 0) {
          const int* index = p.q_index + warp_uniform(work_tile.queries());
          const int first_seen = warp_uniform(work_tile.first_seen());
          const int end = warp_uniform(work_tile.end());
          for (int at = group * kBlockM; at < end; at += Traits::kConsumerWarpgroups * kBlockM) {
            float dq[kD / 2] = {};
            if (at >= first_seen) load_dq_accum(dq, dq_accum_of<Traits>(p, at / kBlockM, 0));
            scatter<typename Traits::OuterTile>(dq, scale, values, warp_first, group_first + end - at, head, p.dq, p,
                                                [&](int i) { return index[at + i - group_first]; });
          }
        }
      }
    }
    release(tile_pipeline.barrier(storage.tile_empty()));
    tile_pipeline.next();
  }
}

template <class Traits, bool kWhole>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    attention_backward_sm90_kernel(const __grid_constant__ AttentionParams p, int list) {
#ifdef SCFA_SM90A
  const SharedStorage<Traits> storage;
  storage.make_barriers(p.inverse_norm != nullptr && p.tile_count[kUntiedHeads] == 0);
  if (warp_uniform(threadIdx.x / kGroup) == 0) {
    setmaxnreg_dec<Traits::kProducerRegs>();
    producer_loop<Traits, Side::kKeys, kWhole>(p, storage, list, p.k, p.v, p.q, p.dout);
  } else {
    setmaxnreg_inc<Traits::kConsumerRegs>();
    compute_keys<Traits, kWhole>(p, storage);
  }
#endif
}

struct Backward64Config {
  static constexpr int kD = 64, kConsumerWarpgroups = 3, kOuterOperands = 2, kTileStages = 2;
  static constexpr int kInnerRows = 64, kStages = 3;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160, kExtraBytes = 3 * 192 * 64 * 2;
};
struct Backward128Config {
  static constexpr int kD = 128, kConsumerWarpgroups = 2, kOuterOperands = 2, kTileStages = 1;
  static constexpr int kInnerRows = 64, kStages = 3;
  static constexpr int kProducerRegs = 40, kConsumerRegs = 232, kExtraBytes = 2 * 128 * 64 * 2;
};
using Backward64 = KernelTraits<Backward64Config>;
using Backward128 = KernelTraits<Backward128Config>;

}  // namespace

void backward_keys(Stream stream, const AttentionParams& p, const Segments& s, bool only_multi_block) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Backward64>(stream, kOp, attention_backward_sm90_kernel<Backward64, false>,
                              only_multi_block ? kMultiBlockWideKeyTiles : kWideKeyTiles, s.k_wide_tiles, p);
  else
    launch_blocks<Backward128>(stream, kOp, attention_backward_sm90_kernel<Backward128, false>,
                               only_multi_block ? kMultiBlockKeyTiles : kKeyTiles, s.k_tiles, p);
}

void backward_single_block_segments(Stream stream, const AttentionParams& p, const Segments& s) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch_blocks<Backward64>(stream, kOp, attention_backward_sm90_kernel<Backward64, true>, kSingleBlockSegments,
                              s.single_block_segments, p);
  else
    launch_blocks<Backward128>(stream, kOp, attention_backward_sm90_kernel<Backward128, true>, kSingleBlockSegments,
                               s.single_block_segments, p);
}

}  // namespace scfa::gpu::sm90

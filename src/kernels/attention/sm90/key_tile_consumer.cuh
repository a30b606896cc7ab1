// How a consumer warpgroup of the backward kernel computes its part of a key tile.
//
// A block owns a key tile (n_block) and sums up dk and dv in registers; queries and dout pass by in steps of kBlockM =
// 64, the blocks of queries (m_block). Scores are transposed, keys by queries, so that probabilities become an A
// fragment without leaving their registers. dq sums over keys, so gradients of scores (ds) go through shared memory:
// all consumer warpgroups store their 64 keys' rows of ds of a step to one buffer, and one of them, the dq warpgroup of
// the step (m_block modulo the number n of consumer warpgroups), multiplies it with the keys kDqDelay = 2 steps later.
// There are n buffers, one per warpgroup. The dq warpgroup of the same queries is the same in every key tile.
//
// One step of a consumer warpgroup, m_block = b. GEMMs (wgmma) are marked with *; they run until the next "wait *".
// Barriers are those of SharedStorage, semaphores those of dq_semaphore.cuh. b - 2 and b + 1 count in the order of the
// steps: in a tile that goes backwards they are b + 2 and b - 1.
//
//   registers hold the scores of b, issued in the step before
//   if it is the dq warpgroup of b - 2:
//     with D = 64:                                  with D = 128:
//     wait ds_full[own]                             wait ds_full[own]
//     poll dq_semaphore                             poll dq_semaphore
//     * dq = ds^T keys                              * dq, columns 0 to 63
//     probabilities from scores                     half of the probabilities
//     wait dq_semaphore                             wait dq_semaphore
//     wait *                                        wait *
//     arrive ds_empty[own]                          add to the sums
//     add to the sums                               * dq, columns 64 to 127
//                                                   the other half of the probabilities
//                                                   wait *
//                                                   arrive ds_empty[own]
//                                                   add to the sums
//   otherwise: probabilities from scores; with D = 128 beside the next GEMM
//   * dp = v dout^T (keys by queries)
//   wait *
//   ds = p (dp - delta); the epilogues apply scale
//   store ds (with D = 128 beside the next GEMM): wait ds_empty[b % n], store, fence, arrive ds_full[b % n]
//   * dv += p dout
//   wait *
//   * dk += ds q
//   if it is the dq warpgroup of b - 3, and that is one of the tile's last kDqSignalLag blocks: signal it (the producer
//     signals the others). This is one step after the sums were added, when the fence has little to wait for
//   wait full: the next stage. Not in the last step, whose next scores are not used
//   * scores of b + 1
//   wait *
//   arrive empty: this stage
//
// "Add to the sums": the tile that completes a sum (dq_semaphore.cuh) loads it instead, takes its turn of a merge
// before it first writes (dq_dk_merge_semaphore), and writes dq. After the last step: the signal of the last block but
// two, dq of the last two blocks, of which a warpgroup owns at most one, and its signal. Where none of the warpgroup's
// keys is seen by b's queries, it only computes dq of b - 2, if that is its turn, stores zeros as ds, and issues the
// next scores.
//
// Why no wait in a block lasts forever. The producer waits for its own copies and for consumers, which release stages
// and tiles at the end of each step or tile. Consumers hold the next stage before they release this one, so two stages
// are the least. In step i the dq warpgroup of step i - 2 waits until all have stored ds of that step. Then all store
// ds of step i to the buffer last used in step i - n, which is read in step i - n + 2 <= i; with n = 2 that is this
// step, and the warpgroup that reads it does so before it stores. Across tiles the same holds, because each warpgroup
// computes the dq that it still owes before it leaves a tile. So a wait depends on earlier steps only, on the GEMM
// for dq of the same step (n = 2), and, through that GEMM and through the merge in the epilogue, on other blocks,
// which dq_semaphore.cuh is about.
#pragma once
#include <climits>

#include "kernels/attention/sm90/dq_accumulation.cuh"
#include "kernels/attention/sm90/epilogue.cuh"
#include "kernels/attention/sm90/shared_storage.cuh"
#include "kernels/attention/sm90/softmax.cuh"
#include "kernels/sm90/wgmma.cuh"

namespace scfa::gpu::sm90 {

// The 64 keys of a key tile that one consumer warpgroup computes. Constructed for each tile; state that outlives a tile
// is passed in.
template <class Storage, class Dq>
class KeyTileConsumer {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows;
  static constexpr int kWarpgroups = Traits::kConsumerWarpgroups;
  static constexpr int kDqDelay = Traits::kDqDelay;
  static_assert(kBlockM == kQueryBlock && kDqDelay == 2);
  using Fragments = uint32_t[kBlockM / 16][4];

 public:
  // ds_phases: bit i is the number of stores to ds buffer i so far, modulo 2. stage: of the tile.
  __device__ KeyTileConsumer(const AttentionParams& params, const Storage& shared, const WarpCoord& rows,
                             PipelineState<Traits::kStages>& inner_stages, uint32_t& phases, int stage)
      : p(params),
        storage(shared),
        coord(rows),
        stages(inner_stages),
        ds_phases(phases),
        info{shared.work_tile(stage)},
        keys(shared.outer(stage, 0)),
        values(shared.outer(stage, 1)),
        dq_accum{params, shared, info, rows} {
    m_block_min = warp_uniform(info.begin()) / kBlockM;
    m_block_max = (warp_uniform(info.end()) + kBlockM - 1) / kBlockM;
    num_m_blocks = max(m_block_max - m_block_min, 0);
    backwards = dq_accum.backwards();
    m_block_step = backwards ? -1 : 1;
    const int warp_group_rows = warp_uniform(info.num_rows()) - coord.warp_group_first;
    warp_group_m_block_min =
        warp_group_rows > 0 ? warp_uniform(info.causal_bound(coord.warp_group_first)) / kBlockM : INT_MAX;
    warp_group_m_block_masking_max =
        warp_group_rows >= 64 ? (warp_uniform(info.causal_bound(coord.warp_group_first + 63)) + kBlockM - 1) / kBlockM
                              : INT_MAX;
    if constexpr (Traits::kIsLocal) {
      const int last = coord.warp_group_first + min(63, warp_group_rows - 1);
      warp_group_m_block_max =
          warp_group_rows > 0 ? (warp_uniform(info.window_bound(last)) + kBlockM - 1) / kBlockM : 0;
    }
  }

  // Goes through all blocks of queries.
  __device__ __forceinline__ void compute() {
    float s[kBlockM / 2];  // scores, then probabilities, of a step
    if (num_m_blocks > 0) {
      mbarrier_wait(stages.barrier(storage.full()), stages.parity());
      fence_proxy_async();
      issue_scores(s);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    }
#pragma unroll 1
    for (int step = 0, m_block = backwards ? m_block_max - 1 : m_block_min; step < num_m_blocks;
         ++step, m_block += m_block_step)
      compute_step(s, step, m_block);
    if (num_m_blocks > 0) {
      stages.next();  // the last step did not advance
      // dq of the last two blocks, of which the warpgroup owns at most one. What has been added is signalled before
      // this waits for another tile: otherwise, with ranges, tiles would wait for one another in a chain.
      const int last = backwards ? m_block_min : m_block_max - 1, pending = owns_dq(last) ? last : last - m_block_step;
      const int added = last - kDqDelay * m_block_step;
      if (num_m_blocks > kDqDelay && owns_dq(added)) dq_accum.signal(added, m_block_max);
      if (owns_dq(pending) && (pending == last || num_m_blocks > 1)) {
        compute_dq(pending, [](int) {});
        dq_accum.signal(pending, m_block_max);
      }
    }
  }

  // Writes dk and dv, and what the tile completes of dq.
  __device__ __forceinline__ void write(uint32_t inverse_norm) {
    const KeyTileEpilogue e{keys,       values, inverse_norm, warp_uniform(info.head()), warp_uniform(info.num_rows()),
                            m_block_max};
    if (storage.fuses_norm())
      dq_accum.merge(dk, dv, e);
    else
      write_separately(e);
  }

 private:
  __device__ __forceinline__ void write_separately(const KeyTileEpilogue& e) {
    const auto token = [&](int row) { return info.token(row); };
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    using T = typename Traits::OuterTile;
    const std::conditional_t<Traits::kAccumulate, Accumulate<>, Overwrite> existing;
    scatter<T>(dv, one, values, coord.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token, existing);
    scatter<T>(dk, scale, values, coord.warp_first, e.num_rows, p.dk.head(e.head, p.H), p.D, token, existing);
    dq_accum.write_dq(e);
  }

  __device__ bool owns_dq(int m_block) const {
    return m_block % kWarpgroups == coord.warp_group;
  }

  __device__ __forceinline__ void issue_scores(float (&s)[kBlockM / 2]) {
    warpgroup_fence_operand(s);
    warpgroup_arrive();
    gemm_ss<kBlockM, kBlockN, kBlockM, kD>(s, keys, coord.warp_group_first, storage.inner(stages.stage, 0));
    warpgroup_commit();
  }

  __device__ __forceinline__ void compute_step(float (&s)[kBlockM / 2], int step, int m_block) {
    const auto owns_dq_of_step_back = [&](int n) { return step >= n && owns_dq(m_block - n * m_block_step); };
    const int buffer = m_block % kWarpgroups;  // of ds, and the dq warpgroup of this step
    const bool has_pending_dq = owns_dq_of_step_back(kDqDelay);
    const uint32_t empty = stages.barrier(storage.empty());
    const auto issue_next_scores = [&] {
      if (owns_dq_of_step_back(kDqDelay + 1)) dq_accum.signal(m_block - (kDqDelay + 1) * m_block_step, m_block_max);
      // One wait covers the next scores and this step's last GEMM. The scores issued in the last step are not used.
      if (step + 1 < num_m_blocks) {
        stages.next();
        mbarrier_wait(stages.barrier(storage.full()), stages.parity());
        fence_proxy_async();
      }
      issue_scores(s);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    };
    if (m_block >= warp_group_m_block_min && (!Traits::kIsLocal || m_block < warp_group_m_block_max)) {
      Fragments gradients;
      const uint32_t queries = storage.inner(stages.stage, 0);
      compute_gradients(gradients, s, m_block, buffer, has_pending_dq);
      warpgroup_fence_operand(dk);
      warpgroup_fence_operand(gradients);
      warpgroup_arrive();
      gemm_rs<kBlockM, kBlockM, kD>(dk, gradients, queries, true);
      warpgroup_commit();
      issue_next_scores();
      warpgroup_fence_operand(dk);
      warpgroup_fence_operand(gradients);
    } else {
      if (has_pending_dq) compute_dq(m_block - kDqDelay * m_block_step, [](int) {});
      const Fragments zeros = {};
      store_ds(zeros, buffer);
      issue_next_scores();
    }
    mbarrier_arrive_warp(empty);
  }

  // From the scores of a block of queries to gradients of scores; dv += probabilities dout on the way.
  __device__ __forceinline__ void compute_gradients(Fragments& gradients, float (&s)[kBlockM / 2], int m_block,
                                                    int buffer, bool has_pending_dq) {
    float ds[kBlockM / 2];
    const uint32_t lse = storage.lse(stages.stage), delta = storage.delta(stages.stage);
    const uint32_t dout = storage.inner(stages.stage, 1);
    if (has_pending_dq) {
      compute_dq(m_block - kDqDelay * m_block_step, [&](int column_half) {
        if constexpr (kD == 64)
          compute_probabilities<0, kBlockM>(s, lse, m_block);
        else if (column_half == 0)
          compute_probabilities<0, kBlockM / 2>(s, lse, m_block);
        else
          compute_probabilities<kBlockM / 2, kBlockM>(s, lse, m_block);
      });
      issue_dp(ds, dout);
      compute_ds_and_dv(gradients, s, ds, dout, delta, buffer);
    } else if constexpr (kD == 64) {
      compute_probabilities<0, kBlockM>(s, lse, m_block);
      issue_dp(ds, dout);
      compute_ds_and_dv(gradients, s, ds, dout, delta, buffer);
    } else {
      issue_dp(ds, dout);
      compute_probabilities<0, kBlockM>(s, lse, m_block);
      compute_ds_and_dv(gradients, s, ds, dout, delta, buffer);
    }
  }

  // In columns from kFirst to kEnd. Queries past the end are zeros and have lse and delta of zero: they add nothing.
  template <int kFirst, int kEnd>
  __device__ __forceinline__ void compute_probabilities(float (&s)[kBlockM / 2], uint32_t lse, int m_block) {
    bool masked = m_block < warp_group_m_block_masking_max;
    if constexpr (Traits::kIsLocal)
      masked |= (m_block + 1) * kBlockM > warp_uniform(info.window_bound(coord.warp_group_first));
    if (masked) {
      const int row = opaque(coord.row);
      if constexpr (Traits::kIsLocal) {
        apply_range_mask_transposed<kFirst, kEnd>(s, info.causal_bound_address(row), info.window_bound_address(row),
                                                  m_block * kBlockM);
      } else {
        const int rows = info.num_rows();
        const int begin_query[2] = {row < rows ? info.causal_bound(row) : INT_MAX,
                                    row + 8 < rows ? info.causal_bound(row + 8) : INT_MAX};
        apply_mask_transposed<kFirst, kEnd>(s, begin_query, m_block * kBlockM);
      }
    }
    probabilities_from_lse<kFirst, kEnd>(s, lse, p.scale_log2);
  }

  __device__ __forceinline__ void issue_dp(float (&ds)[kBlockM / 2], uint32_t dout) {
    warpgroup_fence_operand(ds);
    warpgroup_arrive();
    gemm_ss<kBlockM, kBlockN, kBlockM, kD>(ds, values, coord.warp_group_first, dout);
    warpgroup_commit();
  }

  // s: probabilities. ds: on entry dp, whose GEMM still runs. ds is stored before the GEMM for dv is issued (D = 64) or
  // while that runs (D = 128), whichever is faster.
  __device__ __forceinline__ void compute_ds_and_dv(Fragments& gradients, const float (&s)[kBlockM / 2],
                                                    float (&ds)[kBlockM / 2], uint32_t dout, uint32_t delta,
                                                    int buffer) {
    Fragments probabilities;
    warpgroup_wait<0>();
    warpgroup_fence_operand(ds);
    score_gradients(gradients, probabilities, s, ds, delta);
    warpgroup_fence_operand(gradients);
    if constexpr (kD == 64) store_ds(gradients, buffer);
    warpgroup_fence_operand(dv);
    warpgroup_fence_operand(probabilities);
    warpgroup_arrive();
    gemm_rs<kBlockM, kBlockM, kD>(dv, probabilities, dout, true);
    warpgroup_commit();
    if constexpr (kD > 64) store_ds(gradients, buffer);
    warpgroup_wait<0>();
    warpgroup_fence_operand(dv);
    warpgroup_fence_operand(probabilities);
  }

  // Stores the warp's rows of ds for the dq warpgroup of the step.
  __device__ __forceinline__ void store_ds(const Fragments& gradients, int buffer) {
    using DsTile = typename Traits::DsTile;
    mbarrier_wait(storage.ds_empty(buffer), (ds_phases >> buffer & 1) ^ 1);
    const int lane = opaque(threadIdx.x % 32);
    const uint32_t corner = DsTile::at(storage.ds(buffer), coord.warp_first + lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < kBlockM / 16; ++k) stmatrix(DsTile::step(corner, 0, 2 * k), gradients[k]);
    fence_proxy_async();
    mbarrier_arrive_warp(storage.ds_full(buffer));
    ds_phases ^= 1u << buffer;
  }

  // dq of a block of queries whose ds has been stored. meanwhile(column_half) is called after each GEMM
  // for 64 columns is issued.
  template <class Meanwhile>
  __device__ __forceinline__ void compute_dq(int m_block, const Meanwhile& meanwhile) {
    mbarrier_wait(storage.ds_full(coord.warp_group), (ds_phases >> coord.warp_group & 1) ^ 1);
    const unsigned polled = dq_accum.poll(m_block);
    bool is_first_side = false;
#pragma unroll
    for (int column_half = 0; column_half < kD / 64; ++column_half) {
      float dq[32];
      warpgroup_fence_operand(dq);
      warpgroup_arrive();
      gemm_ss_tn<kBlockN, 64>(dq, storage.ds(coord.warp_group), keys + column_half * kBlockN * 128);
      warpgroup_commit();
      meanwhile(column_half);
      if (column_half == 0) dq_accum.wait(m_block, polled);
      warpgroup_wait<0>();
      warpgroup_fence_operand(dq);
      if (column_half + 1 == kD / 64) mbarrier_arrive_warp(storage.ds_empty(coord.warp_group));
      dq_accum.add(dq, m_block, column_half, is_first_side);
    }
  }

  float dk[kD / 2] = {}, dv[kD / 2] = {};
  const AttentionParams& p;
  const Storage& storage;
  const WarpCoord coord;
  PipelineState<Traits::kStages>& stages;
  uint32_t& ds_phases;
  const WorkTileInfoView<Traits> info;
  const uint32_t keys, values;  // addresses
  Dq dq_accum;
  int m_block_min, m_block_max, num_m_blocks;  // the blocks of queries that the tile meets, one step each
  bool backwards;
  int m_block_step;                    // 1, or -1 if backwards
  int warp_group_m_block_min;          // the first m_block whose queries see any of the group's keys
  int warp_group_m_block_masking_max;  // the first m_block whose queries all see all of them
  int warp_group_m_block_max;  // with ranges: the first m_block behind warp_group_m_block_min whose queries see none of
                               // the group's keys
};

}  // namespace scfa::gpu::sm90

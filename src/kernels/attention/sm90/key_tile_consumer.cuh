// How a consumer warpgroup of the backward kernel computes its part of a key tile.
//
// A block owns a key tile and sums up dk and dv in registers; queries and dout pass by in steps of kBlockM = 64 (a
// "block of queries"). Scores are transposed, keys by queries, so that probabilities become an A fragment without
// leaving their registers. dq sums over keys, so gradients of scores (ds) go through shared memory: all consumer
// warpgroups store their 64 keys' rows of ds of a step to one buffer, and one of them, the dq warpgroup of the step
// (block of queries modulo the number n of consumer warpgroups), multiplies it with the keys two steps later. There are
// n buffers, one per warpgroup. The dq warpgroup of the same queries is the same in every key tile.
//
// One step of a consumer warpgroup, block of queries b. wgmma products are marked with *; they run until the next line
// that says "wait". Barriers are those of SharedStorage, semaphores those of dq_semaphore.cuh.
//
//   registers hold the scores of b, issued in the step before
//   if it is the dq warpgroup of b - 2:
//     wait ds_full[own]               all have stored ds of b - 2
//     poll dq_semaphore
//     * dq = ds^T keys                64 columns; with D = 128 the other 64 likewise, behind these
//     probabilities from scores       beside the product (with D = 128, half of them beside each)
//     wait dq_semaphore               the tile before in the order has added
//     wait *; arrive ds_empty[own]    the buffer may be written again
//     add dq to the sums
//   else: probabilities from scores
//   * dout v; wait *                  with D = 128 issued before the probabilities, if nothing else runs beside them
//   ds = p (dout v - delta)
//   wait ds_empty[b % n], store ds, arrive ds_full[b % n]     with D = 128 after the next line
//   * dv += p dout; wait *
//   * dk += ds q
//   wait full: the next stage
//   * scores of b + 1; wait *
//   arrive empty: this stage
//
// Where none of the warpgroup's keys is seen by b's queries, it only computes dq of b - 2, if that is its turn, stores
// zeros as ds, and issues the next scores.
//
// No wait within a block can be for ever. The producer waits for its own copies and for consumers, which release stages
// and tiles at the end of each step or tile. Consumers hold the next stage before they release this one, so two stages
// are the least. In step i the dq warpgroup of step i - 2 waits until all have stored ds of that step. Then all store
// ds of step i to the buffer last used in step i - n, which is read in step i - n + 2 <= i; with n = 2 that is this
// step, and the warpgroup that reads it does so before it stores. So a wait depends on earlier steps only or, with n =
// 2, on the product for dq of the same step, which depends on earlier steps and on other blocks (dq_semaphore.cuh).
#pragma once
#include <climits>

#include "kernels/attention/sm90/dq_accumulation.cuh"
#include "kernels/attention/sm90/epilogue.cuh"
#include "kernels/attention/sm90/shared_storage.cuh"
#include "kernels/attention/sm90/softmax.cuh"
#include "kernels/attention/sm90/wgmma.cuh"

namespace scfa::gpu::sm90 {

// The 64 keys of a key tile that one consumer warpgroup computes. Constructed for each tile; what lives on from tile to
// tile is handed in.
template <class Storage, class Dq>
class KeyTileConsumer {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows;
  static constexpr int kWarpgroups = Traits::kConsumerWarpgroups;
  static_assert(kBlockM == kQueryBlock);
  using Fragments = uint32_t[kBlockM / 16][4];

 public:
  __device__ KeyTileConsumer(const AttentionParams& params, const Storage& shared, const WarpTile& rows,
                             PipelineState<Traits::kStages>& stages_, uint32_t& phases, uint32_t work_tile,
                             uint32_t keys_, uint32_t values_)
      : p(params),
        storage(shared),
        at(rows),
        stages(stages_),
        ds_phases(phases),
        info{work_tile},
        keys(keys_),
        values(values_),
        dq_sums{params, shared, info, rows} {
    first_block = warp_uniform(info.begin()) / kBlockM;
    end_block = (warp_uniform(info.end()) + kBlockM - 1) / kBlockM;
    blocks = max(end_block - first_block, 0);
    backwards = dq_sums.backwards();
    by = backwards ? -1 : 1;
    const int rows_of_group = warp_uniform(info.num_rows()) - at.group_first;
    seen_from = rows_of_group > 0 ? warp_uniform(info.bound(at.group_first)) / kBlockM : INT_MAX;
    unmasked_from =
        rows_of_group >= 64 ? (warp_uniform(info.bound(at.group_first + 63)) + kBlockM - 1) / kBlockM : INT_MAX;
  }

  // Goes through all blocks of queries.
  __device__ __forceinline__ void compute() {
    float s[kBlockM / 2];  // scores, then probabilities, of a step
    if (blocks > 0) {
      mbarrier_wait(stages.barrier(storage.full()), stages.parity());
      fence_proxy_async();
      issue_scores(s);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    }
#pragma unroll 1
    for (int step = 0, block = backwards ? end_block - 1 : first_block; step < blocks; ++step, block += by)
      compute_step(s, step, block);
    if (blocks > 0) {  // the last two blocks' dq
      stages.next();
      const int last = backwards ? first_block : end_block - 1, pending = is_mine(last) ? last : last - by;
      if (is_mine(pending) && (pending == last || blocks > 1)) compute_dq(pending, [](int) {});
    }
    for (int block = max(end_block - 3, first_block); block < end_block; ++block)
      if (is_mine(block)) dq_sums.signal(block, end_block);
  }

  // Writes dk and dv, and what the tile completes of dq.
  __device__ __forceinline__ void write(uint32_t inverse_norm) {
    const KeyTileEpilogue e{keys,     values, inverse_norm, warp_uniform(info.head()), warp_uniform(info.num_rows()),
                            end_block};
    if (storage.fuses_norm())
      dq_sums.merge(dk, dv, e);
    else
      write_separately(e);
  }

 private:
  __device__ __forceinline__ void write_separately(const KeyTileEpilogue& e) {
    const auto token = [&](int row) { return info.token(row); };
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    using T = typename Traits::OuterTile;
    scatter<T>(dv, one, values, at.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token);
    scatter<T>(dk, scale, values, at.warp_first, e.num_rows, p.dk.head(e.head, p.H), p.D, token);
    dq_sums.finish(e);
  }

  __device__ bool is_mine(int block) const {
    return block % kWarpgroups == at.group;
  }

  __device__ __forceinline__ void issue_scores(float (&s)[kBlockM / 2]) {
    warpgroup_fence_operand(s);
    warpgroup_arrive();
    gemm_ss<kBlockM, kBlockN, kBlockM, kD>(s, keys, at.group_first, storage.inner(stages.stage, 0));
    warpgroup_commit();
  }

  __device__ __forceinline__ void compute_step(float (&s)[kBlockM / 2], int step, int block) {
    const auto has_been = [&](int back) { return step >= back && is_mine(block - back * by); };
    const int buffer = block % kWarpgroups;  // of ds, and the dq warpgroup of this step
    const bool has_pending_dq = has_been(2);
    const uint32_t empty = stages.barrier(storage.empty());
    const auto finish = [&] {
      if (!has_pending_dq && has_been(3)) dq_sums.signal(block - 3, end_block);
      // The next scores come out with this step's last product. After the last step nobody reads them.
      if (step + 1 < blocks) {
        stages.next();
        mbarrier_wait(stages.barrier(storage.full()), stages.parity());
        fence_proxy_async();
      }
      issue_scores(s);
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
    };
    if (block >= seen_from) {
      Fragments gradients;
      const uint32_t queries = storage.inner(stages.stage, 0);
      compute_gradients(gradients, s, block, buffer, has_pending_dq);
      warpgroup_fence_operand(dk);
      warpgroup_fence_operand(gradients);
      warpgroup_arrive();
      gemm_rs<kBlockM, kBlockM, kD>(dk, gradients, queries, true);
      warpgroup_commit();
      finish();
      warpgroup_fence_operand(dk);
      warpgroup_fence_operand(gradients);
    } else {
      if (has_pending_dq) compute_dq(block - 2 * by, [](int) {});
      const Fragments zeros = {};
      store_ds(zeros, buffer);
      finish();
    }
    mbarrier_arrive_warp(empty);
  }

  // From the scores of a block of queries to gradients of scores; dv += probabilities dout on the way.
  __device__ __forceinline__ void compute_gradients(Fragments& gradients, float (&s)[kBlockM / 2], int block,
                                                    int buffer, bool has_pending_dq) {
    float ds[kBlockM / 2];
    const uint32_t lse = storage.lse(stages.stage), delta = storage.delta(stages.stage);
    const uint32_t dout = storage.inner(stages.stage, 1);
    if (has_pending_dq) {
      compute_dq(block - 2 * by, [&](int half) {
        if constexpr (kD == 64)
          compute_probabilities<0, kBlockM>(s, lse, block);
        else if (half == 0)
          compute_probabilities<0, kBlockM / 2>(s, lse, block);
        else
          compute_probabilities<kBlockM / 2, kBlockM>(s, lse, block);
      });
      issue_dout_v(ds, dout);
      finish_gradients(gradients, s, ds, dout, delta, buffer);
    } else if constexpr (kD == 64) {
      compute_probabilities<0, kBlockM>(s, lse, block);
      issue_dout_v(ds, dout);
      finish_gradients(gradients, s, ds, dout, delta, buffer);
    } else {
      issue_dout_v(ds, dout);
      compute_probabilities<0, kBlockM>(s, lse, block);
      finish_gradients(gradients, s, ds, dout, delta, buffer);
    }
  }

  // In columns from kFirst to kEnd. Queries past the end are zeros and have statistics of zero: they add nothing.
  template <int kFirst, int kEnd>
  __device__ __forceinline__ void compute_probabilities(float (&s)[kBlockM / 2], uint32_t lse, int block) {
    if (block < unmasked_from) {
      const int row = opaque(at.row), rows = info.num_rows();
      const int first_query[2] = {row < rows ? info.bound(row) : INT_MAX,
                                  row + 8 < rows ? info.bound(row + 8) : INT_MAX};
      apply_mask_transposed<kFirst, kEnd>(s, first_query, block * kBlockM);
    }
    probabilities_from_lse<kFirst, kEnd>(s, lse, p.scale_log2);
  }

  __device__ __forceinline__ void issue_dout_v(float (&ds)[kBlockM / 2], uint32_t dout) {
    warpgroup_fence_operand(ds);
    warpgroup_arrive();
    gemm_ss<kBlockM, kBlockN, kBlockM, kD>(ds, values, at.group_first, dout);
    warpgroup_commit();
  }

  // From probabilities s and the product for dout v, which runs. ds is stored before the product for dv is issued with
  // D = 64, and while it runs with D = 128: what is fastest.
  __device__ __forceinline__ void finish_gradients(Fragments& gradients, const float (&s)[kBlockM / 2],
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
    const uint32_t corner = DsTile::at(storage.ds(buffer), at.warp_first + lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < kBlockM / 16; ++k) stmatrix(DsTile::step(corner, 0, 2 * k), gradients[k]);
    fence_proxy_async();
    mbarrier_arrive_warp(storage.ds_full(buffer));
    ds_phases ^= 1u << buffer;
  }

  // dq of a block of queries whose ds has been stored. meanwhile(half): done while the product for each 64 columns
  // runs.
  template <class Meanwhile>
  __device__ __forceinline__ void compute_dq(int block, const Meanwhile& meanwhile) {
    mbarrier_wait(storage.ds_full(at.group), (ds_phases >> at.group & 1) ^ 1);
    const unsigned polled = dq_sums.poll(block);
    bool comes_first = false;
#pragma unroll
    for (int half = 0; half < kD / 64; ++half) {
      float dq[32];
      warpgroup_fence_operand(dq);
      warpgroup_arrive();
      gemm_ss_tn<kBlockN, 64>(dq, storage.ds(at.group), keys + half * kBlockN * 128);
      warpgroup_commit();
      meanwhile(half);
      if (half == 0) dq_sums.wait(block, polled);
      warpgroup_wait<0>();
      warpgroup_fence_operand(dq);
      if (half + 1 == kD / 64) mbarrier_arrive_warp(storage.ds_empty(at.group));
      dq_sums.add(dq, block, half, comes_first);
    }
  }

  float dk[kD / 2] = {}, dv[kD / 2] = {};
  const AttentionParams& p;
  const Storage& storage;
  const WarpTile at;
  PipelineState<Traits::kStages>& stages;
  uint32_t& ds_phases;  // of the buffers of ds, one bit each
  const WorkTileInfoView<Traits> info;
  const uint32_t keys, values;  // addresses
  Dq dq_sums;
  int first_block, end_block, blocks, by;  // blocks of queries, a step each; by: 1, or -1 if backwards
  bool backwards;
  int seen_from;      // the first block whose queries see any of the group's keys
  int unmasked_from;  // the first block whose queries all see all of them
};

}  // namespace scfa::gpu::sm90

// Attention forward on sm_90a, after FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608) without IntraWGOverlap and
// without warp scheduler barriers: softmax overlaps only with the GEMMs of other consumer warpgroups.
#include "kernels/attention/sm80/mma.cuh"
#include "kernels/attention/sm90/attention.h"
#include "kernels/attention/sm90/epilogue.cuh"
#include "kernels/attention/sm90/producer.cuh"
#include "kernels/attention/sm90/softmax.cuh"
#include "kernels/sm90/wgmma.cuh"

namespace scfa::gpu::sm90 {

namespace {

// The 64 query rows of a tile that one consumer warpgroup computes.
template <class Storage>
class ForwardConsumer {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD, kBlockM = Traits::kOuterRows, kBlockN = Traits::kInnerRows;

 public:
  __device__ ForwardConsumer(const AttentionParams& params, const Storage& shared) : p(params), storage(shared) {
    warp_group = warp_uniform(threadIdx.x / kWarpgroupSize) - 1;
    warp_group_first = 64 * warp_group;
    warp_first = warp_group_first + 16 * (warp_uniform(threadIdx.x / 32) % 4);
    row = warp_first + lane / 4;
  }

  __device__ void run() {
    while (true) {
      mbarrier_wait(tiles.barrier(storage.tile_full()), tiles.parity());
      fence_proxy_async();
      info.base = storage.work_tile(tiles.stage);
      if (warp_uniform(info.head()) < 0) break;
      compute_tile();
      mbarrier_arrive_warp(tiles.barrier(storage.tile_empty()));
      tiles.next();
    }
  }

 private:
  __device__ void compute_tile() {
    const int num_rows = warp_uniform(info.num_rows());
    const int visible = warp_group_first < num_rows
                            ? warp_uniform(info.causal_bound(min(warp_group_first + 63, num_rows - 1))) - tile_begin()
                            : 0;
    const int steps = (visible + kBlockN - 1) / kBlockN;
    int first_step = 0;  // of which the group sees keys
    if constexpr (Traits::kIsLocal)
      if (steps > 0)
        first_step = min((warp_uniform(info.window_bound(warp_group_first)) - tile_begin()) / kBlockN, steps);
    // If the group sees only keys of the first half of the last step, only that half is computed.
    constexpr int kHalf = kBlockN > 64 ? kBlockN / 2 : kBlockN;
    const bool ends_in_half = kHalf < kBlockN && steps > first_step && visible - (steps - 1) * kBlockN <= kHalf;
    queries = storage.outer(tiles.stage, 0);
    softmax = {{-INFINITY, -INFINITY}, {}};
    float out[kD / 2] = {};
    uint32_t probabilities[kBlockN / 16][4];
    last_empty = 0;
    if constexpr (Traits::kIsLocal) drain_stages(0, first_step);
#pragma unroll 1
    for (int step = first_step; step < steps - ends_in_half; ++step) compute_step<kBlockN>(out, probabilities, step);
    if (ends_in_half) {
      uint32_t operand[kHalf / 16][4];
      compute_step<kHalf>(out, operand, steps - 1);
      warpgroup_wait<0>();
      warpgroup_fence_operand(out);
      warpgroup_fence_operand(operand);
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(out);
    warpgroup_fence_operand(probabilities);
    if (Traits::kIsLocal ? last_empty != 0 : steps > 0) mbarrier_arrive_warp(last_empty);
    drain_stages(steps, (warp_uniform(info.end()) - tile_begin() + kBlockN - 1) / kBlockN);
    named_barrier_sync(kConsumerBarrier0 + warp_group);  // no warp of the group reads its queries any more
    write(out);
  }

  // The first kKeys keys of a step. operand: the probabilities. With D = 64 the GEMM that reads them still runs on
  // return; with D = 128 it is complete, because there are no registers for the next scores beside them.
  template <int kKeys>
  __device__ void compute_step(float (&out)[kD / 2], uint32_t (&operand)[kKeys / 16][4], int step) {
    const uint32_t keys = storage.inner(stages.stage, 0), values = storage.inner(stages.stage, 1);
    mbarrier_wait(stages.barrier(storage.full()), stages.parity());
    fence_proxy_async();
    float s[kKeys / 2];
    warpgroup_fence_operand(s);
    warpgroup_arrive();
    gemm_ss<kKeys, kBlockM, kBlockN, kD>(s, queries, warp_group_first, keys);
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_fence_operand(s);
    warpgroup_fence_operand(out);
    warpgroup_fence_operand(operand);
    if (Traits::kIsLocal ? last_empty != 0 : step > 0)
      mbarrier_arrive_warp(last_empty);  // the GEMM of the step before is complete too
    last_empty = stages.barrier(storage.empty());
    update_softmax<kKeys>(s, out, keys, step);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) accumulator_to_a_fragment(operand[k], s, k);
    warpgroup_fence_operand(out);
    warpgroup_fence_operand(operand);
    warpgroup_arrive();
    gemm_rs<kKeys, kBlockN, kD>(out, operand, values, true);
    warpgroup_commit();
    if constexpr (kD > 64) {
      warpgroup_wait<0>();
      warpgroup_fence_operand(out);
      warpgroup_fence_operand(operand);
    }
    stages.next();
  }

  // Replaces scores s by exponentials and adds them to row_sum. Where the maximum changes, rescales `out` and row_sum.
  template <int kKeys>
  __device__ void update_softmax(float (&s)[kKeys / 2], float (&out)[kD / 2], uint32_t keys, int step) {
    const int begin = tile_begin() + step * kBlockN;
    bool masked = begin + kBlockN > warp_uniform(info.causal_bound(warp_group_first));
    if constexpr (Traits::kIsLocal)
      masked |= begin < warp_uniform(info.window_bound(min(warp_group_first + 63, info.num_rows() - 1)));
    if (masked) mask<kKeys>(s, begin);
    bool recompute_max = Traits::kIsLocal ? softmax.max_scaled[0] == -INFINITY : step == 0;
    float total[2], scores_scale[2];
    const auto rescale_o = [&] {
#pragma unroll
      for (int i = 0; i < kD / 2; ++i) out[i] *= scores_scale[i / 2 % 2];
    };
    if (!recompute_max) {
      scale_apply_exp2<kKeys>(s, total, softmax, p.scale_log2);
      constexpr float kMost = kKeys / 4;  // exponentials per thread and row in a step: a larger sum has one above 1
      if (__any_sync(0xFFFFFFFFu, !(total[0] <= kMost && total[1] <= kMost))) {
        recompute_max = __any_sync(0xFFFFFFFFu, !(total[0] < kSumLimit && total[1] < kSumLimit));
        if (recompute_max) {
          float again[1][kKeys / 8][4] = {};
          warp_gemm<1, kKeys, kD, kBlockM, kBlockN>(again, queries, opaque(warp_first), keys);
#pragma unroll
          for (int i = 0; i < kKeys / 2; ++i) s[i] = again[0][i / 4][i % 4];
          if (masked) mask<kKeys>(s, begin);
        } else {
          renormalise<kKeys>(scores_scale, s, total, softmax);
          rescale_o();
        }
      }
    }
    if (recompute_max) {
      max_get_scale<kKeys, Traits::kIsLocal>(scores_scale, softmax, s, p.scale_log2);
      rescale_o();
      scale_apply_exp2<kKeys>(s, total, softmax, p.scale_log2);
    }
    softmax.row_sum[0] += total[0], softmax.row_sum[1] += total[1];
  }

  template <int kKeys>
  __device__ void mask(float (&s)[kKeys / 2], int begin) const {
    if constexpr (Traits::kIsLocal) {
      const int at = opaque(row);
      apply_range_mask<kKeys>(s, info.window_bound_address(at), info.causal_bound_address(at), begin);
    } else {
      apply_mask<kKeys>(s, info.causal_bound_address(opaque(row)), begin);
    }
  }
  __device__ int tile_begin() const {
    return Traits::kIsLocal ? warp_uniform(info.begin()) : 0;
  }

  // Waits for and releases the stages of steps [begin, end), which only other warpgroups read.
  __device__ void drain_stages(int begin, int end) {
    for (int step = begin; step < end; ++step) {
      mbarrier_wait(stages.barrier(storage.full()), stages.parity());
      mbarrier_arrive_warp(stages.barrier(storage.empty()));
      stages.next();
    }
  }

  __device__ void write(const float (&out)[kD / 2]) {
    float factor[2];
    std::conditional_t<Traits::kAccumulate, Combine, Overwrite> existing;
    float* lse = p.lse + static_cast<int64_t>(info.head()) * p.T;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(softmax.row_sum[half]);
      factor[half] = total > 0.0f ? 1.0f / total : 0.0f;
      float row_lse = total > 0.0f ? softmax.max_scaled[half] + log2f(total) : INFINITY;
      const bool inside = row + 8 * half < info.num_rows();
      float* at = lse + (inside ? info.token(row + 8 * half) : 0);
      if constexpr (Traits::kAccumulate)
        combine_with_existing(factor[half], row_lse, existing.weights[half], at, inside);
      if (lane % 4 == 0 && inside) *at = row_lse;
    }
    scatter<typename Traits::OuterTile>(
        out, factor, queries, warp_first, info.num_rows(), p.out.head(info.head(), p.H), p.D,
        [&](int at) { return info.token(at); }, existing);
  }

  const AttentionParams& p;
  const Storage& storage;
  int warp_group, warp_group_first, warp_first, row;  // rows of the tile; row: the thread's first
  const int lane = threadIdx.x % 32;
  PipelineState<Traits::kTileStages> tiles;
  PipelineState<Traits::kStages> stages;
  // Of the tile:
  WorkTileInfoView<Traits> info;
  uint32_t queries, last_empty;  // last_empty: the barrier of the stage whose values are still read
  OnlineSoftmax softmax;
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    attention_forward_sm90_kernel(const __grid_constant__ AttentionParams p) {
#ifdef SCFA_SM90A
  using Storage = SharedStorage<Traits, QueryTile>;
  const Storage storage;
  storage.init();
  if (warp_uniform(threadIdx.x / kWarpgroupSize) == 0) {
    setmaxnreg_dec<Traits::kProducerRegs>();
    Producer<Storage>(p, storage, {p.q, p.q, p.k, p.v}).run();
  } else {
    setmaxnreg_inc<Traits::kConsumerRegs>();
    ForwardConsumer<Storage>(p, storage).run();
  }
#endif
}

struct Config64 {
  static constexpr int kD = 64, kConsumerWarpgroups = 3, kOuterOperands = 1, kTileStages = 2;
  static constexpr int kInnerRows = 128, kStages = 4;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160;
  static constexpr bool kHasDs = false;
};
// With ranges, 128 keys per step need too many registers; shorter steps also compute fewer masked scores
// (docs/tuning.md).
struct Config64Ranges : Config64 {
  static constexpr int kInnerRows = 64, kStages = 8;
};
struct Config128 {
  static constexpr int kD = 128, kConsumerWarpgroups = 3, kOuterOperands = 1, kTileStages = 1;
  static constexpr int kInnerRows = 96, kStages = 3;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160;
  static constexpr bool kHasDs = false;
};

template <class Traits>
void launch(Context& ctx, const AttentionParams& p, const Segments& s) {
  launch_persistent<Traits, SharedStorage<Traits, QueryTile>>(
      ctx.stream(), "attention_forward", attention_forward_sm90_kernel<Traits>, s.work.wide_query_tiles,
      &s.work.device_counts()->wide_query_tiles, p);
}

}  // namespace

void forward(Context& ctx, const AttentionParams& p, const Segments& s) {
  bool_switch(s, p, [&](auto ranges, auto accumulate) {
    using Narrow = std::conditional_t<ranges, Config64Ranges, Config64>;
    p.D <= 64 ? launch<KernelTraits<Narrow, ranges, accumulate>>(ctx, p, s)
              : launch<KernelTraits<Config128, ranges, accumulate>>(ctx, p, s);
  });
}

}  // namespace scfa::gpu::sm90

// Attention forward for Hopper. Each consumer warpgroup goes through its steps by itself: scores, exponentials,
// results. What overlaps is the work of different warpgroups. The highest score is looked for in the first step only.
// Exponentials of later steps are taken relative to it, which is exact as long as nothing overflows. A new highest
// score is looked for only where their sum shows that there is one.
#include "kernels/attention/attention_sm90.h"
#include "kernels/attention/hopper_gather.cuh"
#include "kernels/attention/launch_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

// A thread's sum in one step from which on scores are computed once more, far below what f32 holds (2^128).
[[maybe_unused]] constexpr float kSumLimit = 0x1p64f;

// A thread's two rows: `base` is what exponents are relative to, `sum` the thread's share of the sum of exponentials.
struct Online {
  float base[2], sum[2];
};

// Sets the scores of keys that a row does not see to -inf. num_visible_keys: the address of the thread's first row's;
// begin: the step's first key.
template <int kBlockN>
__device__ inline void apply_mask(float (&s)[kBlockN / 2], uint32_t num_visible_keys, int begin) {
  const int column = begin + 2 * opaque(threadIdx.x % 4);
  const int left[2] = {load_int(num_visible_keys) - column, load_int(num_visible_keys + 8 * 4) - column};
#pragma unroll
  for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (8 * j + i % 2 >= left[i / 2]) s[4 * j + i] = -INFINITY;
}

// Raises the base of each row to its highest score, if that is above it, and rescales the sum. shrink: by what the
// output is to be multiplied.
template <int kBlockN>
__device__ inline void rescale(float (&shrink)[2], Online& state, const float (&s)[kBlockN / 2], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};  // several, so that none waits for the last
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& most = highest[2 * (j % 2) + i];
        most = fmaxf(most, s[4 * j + 2 * half + i]);
      }
    const float most = quad_max(fmaxf(fmaxf(highest[0], highest[1]), fmaxf(highest[2], highest[3])));
    const float base = fmaxf(state.base[half], most * scale_log2);
    shrink[half] = base == -INFINITY ? 0.0f : exp2_fast(state.base[half] - base);
    state.base[half] = base == -INFINITY ? 0.0f : base;  // a row that sees nothing
    state.sum[half] *= shrink[half];
  }
}

// Scores become probabilities relative to the base; total: their sums.
template <int kBlockN>
__device__ inline void exponentiate(float (&s)[kBlockN / 2], float (&total)[2], const Online& state, float scale_log2) {
  float part[2][2] = {};
#pragma unroll
  for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * j + i];
      x = exp2_fast(x * scale_log2 - state.base[i / 2]);
      part[i / 2][i % 2] += x;
    }
#pragma unroll
  for (int half = 0; half < 2; ++half) total[half] = part[half][0] + part[half][1];
}

// Divides by the highest probability of each row, where it is above one: a sum of one large term is then exact. shrink:
// by what the output is to be multiplied.
template <int kBlockN>
__device__ inline void renormalise(float (&shrink)[2], float (&s)[kBlockN / 2], float (&total)[2], Online& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest[2] = {1.0f, 1.0f};
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) highest[i] = fmaxf(highest[i], s[4 * j + 2 * half + i]);
    const float most = quad_max(fmaxf(highest[0], highest[1]));
    shrink[half] = __frcp_rn(most);
    state.base[half] += __log2f(most);
    state.sum[half] *= shrink[half];
    total[half] *= shrink[half];
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) s[4 * j + 2 * half + i] *= shrink[half];
  }
}

template <class Traits>
__device__ inline void compute_forward(const AttentionParams& p, const SharedStorage<Traits>& storage) {
  constexpr int kD = Traits::kD, kBlockM = Traits::kOuterRows, kBlockN = Traits::kInnerRows;
  const int group = warp_uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = warp_uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  PipelineState<Traits::kTileStages> tile_pipeline;
  PipelineState<Traits::kStages> pipeline;
  while (true) {
    barrier_wait(tile_pipeline.barrier(storage.tile_full()), tile_pipeline.parity());
    fence_proxy_async();
    const WorkTileInfoView<Traits> work_tile{storage.work_tile(tile_pipeline.stage)};
    if (warp_uniform(work_tile.head()) < 0) break;
    const int rows = warp_uniform(work_tile.rows());
    const int most = warp_uniform(group_first < rows ? work_tile.bound(min(group_first + 63, rows - 1)) : 0);
    const int steps = (most + kBlockN - 1) / kBlockN;
    // Of the last step's keys the group may see no more than half.
    constexpr int kHalf = kBlockN / 2;
    const bool ends_in_half = steps > 0 && most - (steps - 1) * kBlockN <= kHalf;
    const uint32_t queries = storage.outer(tile_pipeline.stage, 0);
    Online state = {{-INFINITY, -INFINITY}, {}};
    float out[kD / 2] = {};
    uint32_t probabilities[kBlockN / 16][4];
    uint32_t last_empty = 0;
    const auto take = [&]<int kKeys>(uint32_t(&operand)[kKeys / 16][4], int step) {
      const uint32_t keys = storage.inner(pipeline.stage, 0), values = storage.inner(pipeline.stage, 1);
      barrier_wait(pipeline.barrier(storage.full()), pipeline.parity());
      fence_proxy_async();
      float s[kKeys / 2];
      warpgroup_fence_operand(s);
      warpgroup_arrive();
      gemm_ss<kKeys, kBlockM, kBlockN, kD>(s, queries, group_first, keys);
      warpgroup_commit();
      warpgroup_wait<0>();
      warpgroup_fence_operand(s);
      warpgroup_fence_operand(out);
      warpgroup_fence_operand(probabilities);
      if (step > 0) release(last_empty);  // the product of the step before is done too
      last_empty = pipeline.barrier(storage.empty());
      const bool masked = (step + 1) * kBlockN > warp_uniform(work_tile.bound(group_first));
      if (masked) apply_mask<kKeys>(s, work_tile.bounds(opaque(row)), step * kBlockN);
      bool search = step == 0;
      float total[2], shrink[2];
      const auto rescale_output = [&] {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) out[i] *= shrink[i / 2 % 2];
      };
      if (!search) {
        exponentiate<kKeys>(s, total, state, p.scale_log2);
        constexpr float kMost = kKeys / 4;  // the sum of so many probabilities, none of them above one
        if (__any_sync(0xFFFFFFFFu, !(total[0] <= kMost && total[1] <= kMost))) {
          search = __any_sync(0xFFFFFFFFu, !(total[0] < kSumLimit && total[1] < kSumLimit));
          if (search) {
            float again[1][kKeys / 8][4] = {};
            multiply_rows<1, kKeys, kD, kBlockM, kBlockN>(again, queries, opaque(warp_first), keys);
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i) s[i] = again[0][i / 4][i % 4];
            if (masked) apply_mask<kKeys>(s, work_tile.bounds(opaque(row)), step * kBlockN);
          } else {
            renormalise<kKeys>(shrink, s, total, state);
            rescale_output();
          }
        }
      }
      if (search) {
        rescale<kKeys>(shrink, state, s, p.scale_log2);
        rescale_output();
        exponentiate<kKeys>(s, total, state, p.scale_log2);
      }
      state.sum[0] += total[0], state.sum[1] += total[1];
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) accumulator_to_a_fragment(operand[k], s, k);
      warpgroup_fence_operand(out);
      warpgroup_fence_operand(operand);
      warpgroup_arrive();
      gemm_rs<kKeys, kBlockN, kD>(out, operand, values, true);
      warpgroup_commit();
      if constexpr (kD > 64) {  // no registers for the next scores beside them
        warpgroup_wait<0>();
        warpgroup_fence_operand(out);
        warpgroup_fence_operand(operand);
      }
      pipeline.next();
    };
#pragma unroll 1
    for (int step = 0; step < steps - ends_in_half; ++step) take.template operator()<kBlockN>(probabilities, step);
    if (ends_in_half) {
      uint32_t operand[kHalf / 16][4];
      take.template operator()<kHalf>(operand, steps - 1);
      warpgroup_wait<0>();
      warpgroup_fence_operand(out);
      warpgroup_fence_operand(operand);
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(out);
    warpgroup_fence_operand(probabilities);
    if (steps > 0) release(last_empty);
    drain_stages<Traits>(storage, pipeline, steps, (warp_uniform(work_tile.end()) + kBlockN - 1) / kBlockN);
    sync_threads(2 + group, kGroup);  // no warp of the group reads its queries any more
    float inverse[2];
    float* lse = p.lse + static_cast<int64_t>(work_tile.head()) * p.T;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(state.sum[half]);
      inverse[half] = total > 0.0f ? 1.0f / total : 0.0f;
      if (lane % 4 == 0 && row + 8 * half < work_tile.rows())
        lse[work_tile.token(row + 8 * half)] = total > 0.0f ? state.base[half] + log2f(total) : INFINITY;
    }
    scatter<typename Traits::OuterTile>(out, inverse, queries, warp_first, work_tile.rows(), work_tile.head(), p.out, p,
                                        [&](int at) { return work_tile.token(at); });
    release(tile_pipeline.barrier(storage.tile_empty()));
    tile_pipeline.next();
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    attention_forward_sm90_kernel(const __grid_constant__ AttentionParams p, int list) {
#ifdef SCFA_SM90A
  const SharedStorage<Traits> storage;
  storage.make_barriers();
  if (warp_uniform(threadIdx.x / kGroup) == 0) {
    setmaxnreg_dec<Traits::kProducerRegs>();
    producer_loop<Traits, Side::kQueries>(p, storage, list, p.q, p.q, p.k, p.v);
  } else {
    setmaxnreg_inc<Traits::kConsumerRegs>();
    compute_forward<Traits>(p, storage);
  }
#endif
}

struct Forward64Config {
  static constexpr int kD = 64, kConsumerWarpgroups = 3, kOuterOperands = 1, kTileStages = 2;
  static constexpr int kInnerRows = 128, kStages = 4;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160, kExtraBytes = 0;
};
struct Forward128Config {
  static constexpr int kD = 128, kConsumerWarpgroups = 3, kOuterOperands = 1, kTileStages = 1;
  static constexpr int kInnerRows = 96, kStages = 3;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160, kExtraBytes = 0;
};
using Forward64 = KernelTraits<Forward64Config>;
using Forward128 = KernelTraits<Forward128Config>;

}  // namespace

void forward(Context& ctx, const AttentionParams& p, const Segments& s) {
  constexpr const char* kOp = "attention_forward";
  if (p.D <= 64)
    launch_blocks<Forward64>(ctx.stream(), kOp, attention_forward_sm90_kernel<Forward64>, kWideQueryTiles,
                             s.q_wide_tiles, p);
  else
    launch_blocks<Forward128>(ctx.stream(), kOp, attention_forward_sm90_kernel<Forward128>, kWideQueryTiles,
                              s.q_wide_tiles, p);
}

}  // namespace scfa::gpu::sm90

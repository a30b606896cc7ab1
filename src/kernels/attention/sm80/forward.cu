// Attention forward on sm_80 and newer, after FlashAttention-2 (Dao 2023, arXiv:2307.08691) on index lists
// (Pagliardini et al. 2023, arXiv:2306.01160).
#include "kernels/attention/sm80/attention.h"
#include "kernels/attention/sm80/epilogue.cuh"
#include "kernels/attention/sm80/kernel_traits.cuh"
#include "kernels/attention/sm80/loader.cuh"
#include "kernels/attention/sm80/mask.cuh"
#include "kernels/attention/sm80/mma.cuh"
#include "kernels/attention/sm80/softmax.cuh"
#include "kernels/attention/sm80/tile_scheduler.cuh"

namespace scfa::gpu::sm80 {

namespace {

// A block owns a query tile of kBlockM rows, a warp 16 of them. Keys and values come in steps of kBlockN rows. Tuned
// for segments of 512 rows and more.
template <class Traits, bool kIsLocal, bool kAccumulate>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerSm)
    attention_forward_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kBlockN = Traits::kInnerRows, kBlockM = Traits::kOuterRows;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t queries = shared_address(shared);
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  for (TileScheduler<QueryTile, kBlockM> scheduler; scheduler.next(p);) {
    const QueryTile tile = scheduler.tile();
    if (tile.num_queries <= 0) continue;
    const int* limits = p.end_key + tile.query_offset;
    RowGather<kBlockM, kD, Traits::kThreads> query_rows;
    query_rows.look_up(p.q_index + tile.query_offset, 0, tile.num_queries);
    // end_key is non-decreasing, so the last query sees what all see.
    const int* firsts = kIsLocal ? p.begin_key + tile.query_offset : nullptr;
    InnerRows<Traits> inner(queries + Traits::kStageStart, p.k_index + tile.key_offset,
                            kIsLocal ? firsts[0] / kBlockN * kBlockN : 0, limits[tile.num_queries - 1]);
    query_rows.copy(queries, p.q.head(tile.head, p.H), p.D);
    const HeadView k = p.k.kv_head(tile.head, p.H), v = p.v.kv_head(tile.head, p.H);
    const auto load = [&](int step) { inner.load(step, k, v, p.D, [](int) {}); };
    load(0);
    const RowBounds visible(limits, first, tile.num_queries, 0);
    const RowBounds hidden = kIsLocal ? RowBounds(firsts, first, tile.num_queries, 0) : RowBounds();
    OnlineSoftmax softmax;
    float out[1][kD / 8][4] = {};
    for_each_step(inner.steps(), load, [&](int step) {
      const int begin = inner.row(step);
      if (begin >= visible.most || (kIsLocal && begin + kBlockN <= hidden.least)) return;  // the warp sees no key of it
      float s[1][kBlockN / 8][4] = {};
      warp_gemm<1, kBlockN, kD, kBlockM>(s, queries, first, inner.first(step));
      const bool masked = begin + kBlockN > visible.least || (kIsLocal && begin < hidden.most);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (masked) {
#pragma unroll
          for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if (const int key = begin + 8 * j + 2 * (lane % 4) + i;
                  key >= visible.bound[half] || (kIsLocal && key < hidden.bound[half]))
                s[0][j][2 * half + i] = -INFINITY;
        }
        softmax.update<kBlockN, kD>(s, out, half, p.scale_log2);
      }
      warp_gemm_rs<1, kBlockN, kD>(out, s, inner.second(step));
    });

    const QueryTile done = scheduler.tile();
    const int* tokens = p.q_index + done.query_offset;
    float factor[2], *lse = p.lse + static_cast<int64_t>(done.head) * p.T;
    std::conditional_t<kAccumulate, Combine, Overwrite> existing;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(softmax.row_sum[half]);
      const int row = first + 8 * half + lane / 4;
      factor[half] = total > 0.0f ? 1.0f / total : 0.0f;
      float row_lse = total > 0.0f ? softmax.row_max[half] * p.scale_log2 + log2f(total) : INFINITY;
      const bool inside = row < done.num_queries;
      float* at = lse + (inside ? tokens[row] : 0);
      if constexpr (kAccumulate) combine_with_existing(factor[half], row_lse, existing.weights[half], at, inside);
      if (lane % 4 == 0 && inside) *at = row_lse;
    }
    scatter<kD, kBlockM>(out, factor, queries, first, done.num_queries, p.out.head(done.head, p.H), tokens, p.D,
                         existing);
  }
}

struct Config64 {
  static constexpr int kD = 64, kWarps = 8, kInnerRows = 64, kOuterOperands = 1, kBlocksPerSm = 2;
};
struct Config128 {
  static constexpr int kD = 128, kWarps = 8, kInnerRows = 64, kOuterOperands = 1, kBlocksPerSm = 1;
};

template <class Traits>
void launch(Context& ctx, const AttentionParams& p, const Segments& s) {
  bool_switch(s, p, [&](auto ranges, auto accumulate) {
    launch_persistent<Traits>(ctx, "attention_forward", attention_forward_sm80_kernel<Traits, ranges, accumulate>,
                              s.work.query_tiles, &s.work.device_counts()->query_tiles, p);
  });
}

}  // namespace

void forward(Context& ctx, const AttentionParams& p, const Segments& s) {
  return p.D <= 64 ? launch<KernelTraits<Config64>>(ctx, p, s) : launch<KernelTraits<Config128>>(ctx, p, s);
}

}  // namespace scfa::gpu::sm80

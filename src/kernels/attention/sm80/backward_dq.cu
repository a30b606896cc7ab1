// dq on sm_80 and newer. Backward is two kernels: one owns query tiles (dq), the other key tiles (dk, dv). Scores are
// computed twice, but every sum has one owner and a fixed order, so results are the same bits in every run.
#include "kernels/attention/sm80/attention.h"
#include "kernels/attention/sm80/epilogue.cuh"
#include "kernels/attention/sm80/kernel_traits.cuh"
#include "kernels/attention/sm80/loader.cuh"
#include "kernels/attention/sm80/mask.cuh"
#include "kernels/attention/sm80/mma.cuh"
#include "kernels/attention/sm80/tile_scheduler.cuh"

namespace scfa::gpu::sm80 {

namespace {

// A block owns a query tile of kBlockM rows, a warp 16 of them. Keys and values come in steps of kBlockN rows.
// With ranges three blocks per SM would spill registers.
template <class Traits, bool kIsLocal, bool kAccumulate>
__global__ void __launch_bounds__(Traits::kThreads, kIsLocal ? 2 : Traits::kBlocksPerSm)
    attention_backward_dq_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kBlockN = Traits::kInnerRows, kBlockM = Traits::kOuterRows;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t queries = shared_address(shared), douts = queries + Traits::OuterTile::kBytes;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  for (TileScheduler<QueryTile, kBlockM> scheduler; scheduler.next(p);) {
    const QueryTile tile = scheduler.tile();
    if (tile.num_queries <= 0) continue;
    const int* limits = p.end_key + tile.query_offset;
    const int* firsts = kIsLocal ? p.begin_key + tile.query_offset : nullptr;
    InnerRows<Traits> inner(queries + Traits::kStageStart, p.k_index + tile.key_offset,
                            kIsLocal ? firsts[0] / kBlockN * kBlockN : 0, limits[tile.num_queries - 1]);
    {
      RowGather<kBlockM, kD, Traits::kThreads> query_rows;
      query_rows.look_up(p.q_index + tile.query_offset, 0, tile.num_queries);
      query_rows.copy(queries, p.q.head(tile.head, p.H), p.D);
      query_rows.copy(douts, p.dout.head(tile.head, p.H), p.D);
    }
    const HeadView k = p.k.kv_head(tile.head, p.H), v = p.v.kv_head(tile.head, p.H);
    const auto load = [&](int step) { inner.load(step, k, v, p.D, [](int) {}); };
    load(0);
    const RowBounds visible(limits, first, tile.num_queries, 0);
    const RowBounds hidden = kIsLocal ? RowBounds(firsts, first, tile.num_queries, 0) : RowBounds();
    float lse[2], delta[2], dq[1][kD / 8][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 8 * half + lane / 4;
      const bool valid = row < tile.num_queries;
      const float2 lse_delta = p.lse_delta[tile.query_offset + (valid ? row : 0)];
      lse[half] = valid ? lse_delta.x : INFINITY;
      delta[half] = valid ? lse_delta.y : 0.0f;
    }
    for_each_step(inner.steps(), load, [&](int step) {
      const int begin = inner.row(step);
      if (begin >= visible.most || (kIsLocal && begin + kBlockN <= hidden.least)) return;
      float s[1][kBlockN / 8][4] = {}, ds[1][kBlockN / 8][4] = {};
      warp_gemm<1, kBlockN, kD, kBlockM>(s, queries, first, inner.first(step));
      warp_gemm<1, kBlockN, kD, kBlockM>(ds, douts, first, inner.second(step));
      const bool masked = begin + kBlockN > visible.least || (kIsLocal && begin < hidden.most);
#pragma unroll
      for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float probability = exp2_fast(s[0][j][i] * p.scale_log2 - lse[i / 2]);
          const int key = begin + 8 * j + 2 * (lane % 4) + i % 2;
          if (masked && (key >= visible.bound[i / 2] || (kIsLocal && key < hidden.bound[i / 2]))) probability = 0.0f;
          ds[0][j][i] = probability * (ds[0][j][i] - delta[i / 2]);
        }
      warp_gemm_rs<1, kBlockN, kD>(dq, ds, inner.first(step));
    });
    const QueryTile done = scheduler.tile();
    const float scale[2] = {p.scale, p.scale};
    const std::conditional_t<kAccumulate, Accumulate<>, Overwrite> existing;
    scatter<kD, kBlockM>(dq, scale, queries, first, done.num_queries, p.dq.head(done.head, p.H),
                         p.q_index + done.query_offset, p.D, existing);
  }
}

struct Config64 {
  static constexpr int kD = 64, kWarps = 8, kInnerRows = 32, kOuterOperands = 2, kBlocksPerSm = 2;
};
struct Config128 {
  static constexpr int kD = 128, kWarps = 4, kInnerRows = 32, kOuterOperands = 2, kBlocksPerSm = 3;
};

template <class Traits>
void launch(Context& ctx, const AttentionParams& p, const Segments& s) {
  bool_switch(s, p, [&](auto ranges, auto accumulate) {
    launch_persistent<Traits>(ctx, "attention_backward", attention_backward_dq_sm80_kernel<Traits, ranges, accumulate>,
                              s.work.query_tiles, &s.work.device_counts()->query_tiles, p);
  });
}

}  // namespace

void backward_dq(Context& ctx, const AttentionParams& p, const Segments& s) {
  return p.D <= 64 ? launch<KernelTraits<Config64>>(ctx, p, s) : launch<KernelTraits<Config128>>(ctx, p, s);
}

}  // namespace scfa::gpu::sm80

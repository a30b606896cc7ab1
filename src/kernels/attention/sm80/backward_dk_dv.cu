// dk and dv on sm_80 and newer, and backward as a whole.
#include <climits>

#include "kernels/attention/sm80/attention.h"
#include "kernels/attention/sm80/epilogue.cuh"
#include "kernels/attention/sm80/kernel_traits.cuh"
#include "kernels/attention/sm80/loader.cuh"
#include "kernels/attention/sm80/mask.cuh"
#include "kernels/attention/sm80/mma.cuh"
#include "kernels/attention/sm80/tile_scheduler.cuh"

namespace scfa::gpu::sm80 {

namespace {

// A block owns a key tile of kBlockN rows, a warp 16 of them. Queries and dout come in steps of kBlockM rows, from the
// first query on that sees the tile's first key. Scores are transposed (keys by queries), so that probabilities become
// an A fragment without leaving their registers.
template <class Traits, bool kIsLocal, bool kAccumulate>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerSm)
    attention_backward_dk_dv_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows;
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ float2 lse_delta[2][kBlockM];  // lse and delta of the queries of a step, by stage
  const uint32_t keys = shared_address(shared), values = keys + Traits::OuterTile::kBytes;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  for (TileScheduler<KeyTile, kBlockN> scheduler; scheduler.next(p);) {
    const KeyTile tile = scheduler.tile();
    if (tile.num_keys <= 0) continue;
    const int* first_queries = p.begin_query + tile.key_offset;
    InnerRows<Traits> inner(keys + Traits::kStageStart, p.q_index + tile.query_offset,
                            first_queries[0] / kBlockM * kBlockM, tile.end_query);
    {
      RowGather<kBlockN, kD, Traits::kThreads> key_rows;
      key_rows.look_up(p.k_index + tile.key_offset, 0, tile.num_keys);
      key_rows.copy(keys, p.k.kv_head(tile.head, p.H), p.D);
      key_rows.copy(values, p.v.kv_head(tile.head, p.H), p.D);
    }
    const HeadView q = p.q.head(tile.head, p.H), dout = p.dout.head(tile.head, p.H);
    const float2* of_segment = p.lse_delta + tile.query_offset;
    const auto load = [&](int step) {
      inner.load(step, q, dout, p.D, [&](int) {
        if (threadIdx.x < kBlockM) {
          const int row = inner.row(step) + static_cast<int>(threadIdx.x);
          const bool valid = row < tile.end_query;
          copy_async<8>(shared_address(&lse_delta[step % 2][threadIdx.x]), of_segment + (valid ? row : 0), valid);
        }
      });
    };
    load(0);
    const RowBounds from(first_queries, first, tile.num_keys, INT_MAX);
    const RowBounds until = kIsLocal ? RowBounds(p.end_query + tile.key_offset, first, tile.num_keys, 0) : RowBounds();
    float dk[1][kD / 8][4] = {}, dv[1][kD / 8][4] = {};
    for_each_step(inner.steps(), load, [&](int step) {
      const int begin = inner.row(step);
      // No query sees a key of the warp.
      if (begin + kBlockM <= from.least || (kIsLocal && begin >= until.most)) return;
      float s[1][kBlockM / 8][4] = {}, ds[1][kBlockM / 8][4] = {};
      warp_gemm<1, kBlockM, kD, kBlockN>(s, keys, first, inner.first(step));
      warp_gemm<1, kBlockM, kD, kBlockN>(ds, values, first, inner.second(step));
      const bool masked = begin < from.most || begin + kBlockM > (kIsLocal ? until.least : tile.end_query);
#pragma unroll
      for (int j = 0; j < kBlockM / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * j + 2 * (lane % 4) + i % 2, query = begin + column;
          const float2 of_query = lse_delta[step % 2][column];
          float probability = exp2_fast(s[0][j][i] * p.scale_log2 - of_query.x);
          const int end = kIsLocal ? until.bound[i / 2] : tile.end_query;
          if (masked && (query < from.bound[i / 2] || query >= end)) probability = 0.0f;
          s[0][j][i] = probability;
          ds[0][j][i] = probability * (ds[0][j][i] - of_query.y);
        }
      warp_gemm_rs<1, kBlockM, kD>(dv, s, inner.second(step));
      warp_gemm_rs<1, kBlockM, kD>(dk, ds, inner.first(step));
    });
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    const KeyTile done = scheduler.tile();
    const int* tokens = p.k_index + done.key_offset;
    const std::conditional_t<kAccumulate, Accumulate<>, Overwrite> existing;
    scatter<kD, kBlockN>(dk, scale, keys, first, done.num_keys, p.dk.head(done.head, p.H), tokens, p.D, existing);
    scatter<kD, kBlockN>(dv, one, values, first, done.num_keys, p.dv.head(done.head, p.H), tokens, p.D, existing);
  }
}

struct Config64 {
  static constexpr int kD = 64, kWarps = 4, kInnerRows = 64, kOuterOperands = 2, kBlocksPerSm = 2;
};
struct Config128 {
  static constexpr int kD = 128, kWarps = 8, kInnerRows = 16, kOuterOperands = 2, kBlocksPerSm = 1;
};

template <class Traits>
void launch(Context& ctx, const AttentionParams& p, const Segments& s) {
  bool_switch(s, p, [&](auto ranges, auto accumulate) {
    launch_persistent<Traits>(ctx, "attention_backward",
                              attention_backward_dk_dv_sm80_kernel<Traits, ranges, accumulate>, s.work.key_tiles,
                              &s.work.device_counts()->key_tiles, p);
  });
}

}  // namespace

void backward_dk_dv(Context& ctx, const AttentionParams& p, const Segments& s) {
  return p.D <= 64 ? launch<KernelTraits<Config64>>(ctx, p, s) : launch<KernelTraits<Config128>>(ctx, p, s);
}

void backward(Context& ctx, const AttentionParams& p, const Segments& s) {
  backward_dq(ctx, p, s);
  AttentionParams next = p;
  ++next.tile_counter;
  backward_dk_dv(ctx, next, s);
}

}  // namespace scfa::gpu::sm80

// Attention over segments on sm_80 and newer, after FlashAttention-2 (Dao 2023, arXiv:2307.08691) on index lists
// (Pagliardini et al. 2023, arXiv:2306.01160). Rows are gathered from token order on their way into shared memory and
// scattered from the epilogue, so nothing is ever sorted in memory; who sees whom is one comparison with a row's
// num_visible_keys. Backward is two kernels, one that owns tiles of queries (dq) and one that owns tiles of keys (dk,
// dv): scores are computed twice, but every sum has one owner and a fixed order, so results are the same bit for bit in
// every run.
#include <algorithm>
#include <climits>

#include "core/gpu.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/attention_sm90.h"
#include "kernels/attention/attention_tiles.cuh"
#include "kernels/attention/normalise.h"

namespace scfa::gpu {

namespace {

static_assert(kTile == kTileRows && kTileEntry == 4 * kEntryWords);
constexpr int kHeaderElements =
    64;  // of the scratch: tile counters; statistics and buffers of the Hopper kernels follow
constexpr float kLog2E = 1.442695041f;

// Floats for the statistics of so many rows; what follows stays aligned to 16 bytes.
constexpr int64_t statistics_size(int64_t rows) {
  return (2 * rows + 3) / 4 * 4;
}

// The constants of a kernel. The outer tile is what a block works on: queries in forward and for dq (kBlockM rows),
// keys for dk and dv (kBlockN rows). Inner rows pass by in steps. What decides is registers (two accumulators of scores
// and one or two of results per warp) and, for D = 128, the 99 KB of shared memory that consumer GPUs have. Config has
//   kD            the head dim that rows are padded to
//   kWarps, kM    warps, each with 16 kM rows of the outer tile
//   kInnerRows    inner rows per step
//   kBlocksPerSm  blocks that fit on an SM
template <class Config>
struct KernelTraits : Config {
  using Config::kD, Config::kWarps, Config::kM, Config::kInnerRows;
  static constexpr int kThreads = 32 * kWarps, kOuterRows = 16 * kM * kWarps;
  static_assert(kTile % kOuterRows == 0);
  using OuterTile = Tile<kOuterRows, kD>;
  using InnerTile = Tile<kInnerRows, kD>;
  // outer_tiles tiles of outer rows, and two stages of two tiles of inner rows.
  static constexpr int shared_bytes(int outer_tiles) { return outer_tiles * OuterTile::kBytes + 4 * InnerTile::kBytes; }
};
struct Forward64Config {
  static constexpr int kD = 64, kWarps = 8, kM = 1, kInnerRows = 64, kBlocksPerSm = 2;
};
struct Forward128Config {
  static constexpr int kD = 128, kWarps = 8, kM = 1, kInnerRows = 64, kBlocksPerSm = 1;
};
struct BackwardDq64Config {
  static constexpr int kD = 64, kWarps = 8, kM = 1, kInnerRows = 32, kBlocksPerSm = 2;
};
struct BackwardDq128Config {
  static constexpr int kD = 128, kWarps = 4, kM = 1, kInnerRows = 32, kBlocksPerSm = 3;
};
struct BackwardDkDv64Config {
  static constexpr int kD = 64, kWarps = 4, kM = 1, kInnerRows = 64, kBlocksPerSm = 2;
};
struct BackwardDkDv128Config {
  static constexpr int kD = 128, kWarps = 8, kM = 1, kInnerRows = 16, kBlocksPerSm = 1;
};
using Forward64 = KernelTraits<Forward64Config>;
using Forward128 = KernelTraits<Forward128Config>;
using BackwardDq64 = KernelTraits<BackwardDq64Config>;
using BackwardDq128 = KernelTraits<BackwardDq128Config>;
using BackwardDkDv64 = KernelTraits<BackwardDkDv64Config>;
using BackwardDkDv128 = KernelTraits<BackwardDkDv128Config>;

// ---- forward --------------------------------------------------------------------------------------------------------

// A block owns a query tile of kBlockM rows, a warp 16 kM of them. Keys and values come in steps of kBlockN rows; the
// next step is copied while this one is computed. Tuned for segments of 512 rows and more.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerSm)
    attention_forward_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kM = Traits::kM, kBlockN = Traits::kInnerRows, kBlockM = Traits::kOuterRows,
                kThreads = Traits::kThreads;
  using QueryTile = typename Traits::OuterTile;
  using KeyTile = typename Traits::InnerTile;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t queries = shared_address(shared), stages = queries + QueryTile::kBytes;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 * kM;
  for (TileQueue<kBlockM> queue; queue.next(p, 0);) {
    const Piece piece = queue.piece(p);
    if (piece.rows <= 0) continue;
    const int* q_index = p.q_index + piece.q0 + piece.first;
    const int* k_index = p.k_index + piece.k0;
    const int* limits = p.num_visible_keys + piece.q0 + piece.first;
    const int seen = limits[piece.rows - 1], steps = (seen + kBlockN - 1) / kBlockN;  // num_visible_keys never falls
    const __nv_bfloat16 *k = head_of(p.k, piece), *v = head_of(p.v, piece);
    Gatherer<kBlockM, kD, kThreads> query_rows;
    Gatherer<kBlockN, kD, kThreads> key_rows;
    query_rows.look_up(q_index, 0, piece.rows);
    key_rows.look_up(k_index, 0, seen);
    query_rows.start(queries, head_of(p.q, piece), p.q.row_stride, p.D);
    const auto load = [&](int step) {
      const uint32_t stage = stages + step % 2 * 2 * KeyTile::kBytes;
      key_rows.start(stage, k, p.k.row_stride, p.D);
      key_rows.start(stage + KeyTile::kBytes, v, p.v.row_stride, p.D);
      commit_copies();
      key_rows.look_up(k_index, (step + 1) * kBlockN, seen);
    };
    load(0);

    int limit[kM][2], least = INT_MAX, most = 0;
    float top[kM][2], sum[kM][2], out[kM][kD / 8][4] = {};
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + 16 * m + 8 * half + lane / 4;
        limit[m][half] = row < piece.rows ? limits[row] : 0;
        least = min(least, limit[m][half]);
        most = max(most, limit[m][half]);
        top[m][half] = -INFINITY;
        sum[m][half] = 0.0f;
      }
    least = __reduce_min_sync(0xFFFFFFFFu, least);
    most = __reduce_max_sync(0xFFFFFFFFu, most);

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        load(step + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const int begin = step * kBlockN;
      if (begin < most) {  // some row of the warp sees some key of the step
        const uint32_t stage = stages + step % 2 * 2 * KeyTile::kBytes;
        float s[kM][kBlockN / 8][4] = {};
        multiply_rows<kM, kBlockN, kD, kBlockM>(s, queries, first, stage);
        const bool masked = begin + kBlockN > least;
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (masked) {
#pragma unroll
              for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                  if (begin + 8 * j + 2 * (lane % 4) + i >= limit[m][half]) s[m][j][2 * half + i] = -INFINITY;
            }
            float highest = top[m][half];
#pragma unroll
            for (int j = 0; j < kBlockN / 8; ++j)
              highest = fmaxf(highest, fmaxf(s[m][j][2 * half], s[m][j][2 * half + 1]));
            highest = quad_max(highest);
            const float base = highest == -INFINITY ? 0.0f : highest * p.scale_log2;
            const float shrink = exp2_fast(top[m][half] * p.scale_log2 - base);
            top[m][half] = highest;
            sum[m][half] *= shrink;
#pragma unroll
            for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                float& x = s[m][j][2 * half + i];
                x = exp2_fast(x * p.scale_log2 - base);
                sum[m][half] += x;
              }
#pragma unroll
            for (int j = 0; j < kD / 8; ++j) {
              out[m][j][2 * half] *= shrink;
              out[m][j][2 * half + 1] *= shrink;
            }
          }
        multiply_scores<kM, kBlockN, kD>(out, s, stage + KeyTile::kBytes);
      }
      __syncthreads();  // the stage is free
    }
    wait_copies<0>();  // of a tile without steps
    __syncthreads();

    const Piece done = queue.piece(p);
    const int* tokens = p.q_index + done.q0 + done.first;
    float inverse[kM][2];
    float* lse = p.lse + static_cast<int64_t>(done.head) * p.T;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = quad_sum(sum[m][half]);
        const int row = first + 16 * m + 8 * half + lane / 4;
        inverse[m][half] = total > 0.0f ? 1.0f / total : 0.0f;
        if (lane % 4 == 0 && row < done.rows)
          lse[tokens[row]] = total > 0.0f ? top[m][half] * p.scale_log2 + log2f(total) : INFINITY;
      }
    scatter_rows<kM, kD, kBlockM>(out, inverse, queries, first, done.rows, head_of(p.out, done), p.out.row_stride,
                                  tokens, p.D);
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// dq. A block owns a query tile, a warp 16 rows of it; keys and values come in steps as in forward.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerSm)
    attention_backward_dq_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kBlockN = Traits::kInnerRows, kBlockM = Traits::kOuterRows,
                kThreads = Traits::kThreads;
  using QueryTile = typename Traits::OuterTile;
  using KeyTile = typename Traits::InnerTile;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t queries = shared_address(shared), douts = queries + QueryTile::kBytes;
  const uint32_t stages = douts + QueryTile::kBytes;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  for (TileQueue<kBlockM> queue; queue.next(p, 0);) {
    const Piece piece = queue.piece(p);
    if (piece.rows <= 0) continue;
    const int* q_index = p.q_index + piece.q0 + piece.first;
    const int* k_index = p.k_index + piece.k0;
    const int* limits = p.num_visible_keys + piece.q0 + piece.first;
    const int seen = limits[piece.rows - 1], steps = (seen + kBlockN - 1) / kBlockN;
    const __nv_bfloat16 *k = head_of(p.k, piece), *v = head_of(p.v, piece);
    Gatherer<kBlockN, kD, kThreads> key_rows;
    {
      Gatherer<kBlockM, kD, kThreads> query_rows;
      query_rows.look_up(q_index, 0, piece.rows);
      key_rows.look_up(k_index, 0, seen);
      query_rows.start(queries, head_of(p.q, piece), p.q.row_stride, p.D);
      query_rows.start(douts, head_of(p.dout, piece), p.dout.row_stride, p.D);
    }
    const auto load = [&](int step) {
      const uint32_t stage = stages + step % 2 * 2 * KeyTile::kBytes;
      key_rows.start(stage, k, p.k.row_stride, p.D);
      key_rows.start(stage + KeyTile::kBytes, v, p.v.row_stride, p.D);
      commit_copies();
      key_rows.look_up(k_index, (step + 1) * kBlockN, seen);
    };
    load(0);

    int limit[2], least = INT_MAX, most = 0;
    float lse[2], delta[2], dq[1][kD / 8][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 8 * half + lane / 4;
      const bool valid = row < piece.rows;
      const int64_t at = piece.q0 + piece.first + (valid ? row : 0);
      limit[half] = valid ? limits[row] : 0;
      const float2 statistics = p.statistics[at];
      lse[half] = valid ? statistics.x : INFINITY;
      delta[half] = valid ? statistics.y : 0.0f;
      least = min(least, limit[half]);
      most = max(most, limit[half]);
    }
    least = __reduce_min_sync(0xFFFFFFFFu, least);
    most = __reduce_max_sync(0xFFFFFFFFu, most);

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        load(step + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const int begin = step * kBlockN;
      if (begin < most) {
        const uint32_t stage = stages + step % 2 * 2 * KeyTile::kBytes;
        float s[1][kBlockN / 8][4] = {}, ds[1][kBlockN / 8][4] = {};
        multiply_rows<1, kBlockN, kD, kBlockM>(s, queries, first, stage);
        multiply_rows<1, kBlockN, kD, kBlockM>(ds, douts, first, stage + KeyTile::kBytes);
        const bool masked = begin + kBlockN > least;
#pragma unroll
        for (int j = 0; j < kBlockN / 8; ++j)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float probability = exp2_fast(s[0][j][i] * p.scale_log2 - lse[i / 2]);
            if (masked && begin + 8 * j + 2 * (lane % 4) + i % 2 >= limit[i / 2]) probability = 0.0f;
            ds[0][j][i] = probability * (ds[0][j][i] - delta[i / 2]);
          }
        multiply_scores<1, kBlockN, kD>(dq, ds, stage);
      }
      __syncthreads();
    }
    wait_copies<0>();
    __syncthreads();
    const Piece done = queue.piece(p);
    const float factor[1][2] = {{p.scale, p.scale}};
    scatter_rows<1, kD, kBlockM>(dq, factor, queries, first, done.rows, head_of(p.dq, done), p.dq.row_stride,
                                 p.q_index + done.q0 + done.first, p.D);
  }
}

// dk and dv. A block owns a key tile of kBlockN rows, a warp 16 of them. Queries and dout come in steps of kBlockM
// rows, from the first query on that sees the tile's first key. Scores are transposed (keys by queries), so that
// probabilities become an A fragment without leaving their registers.
template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocksPerSm)
    attention_backward_dk_dv_sm80_kernel(const AttentionParams p) {
  constexpr int kD = Traits::kD, kBlockM = Traits::kInnerRows, kBlockN = Traits::kOuterRows,
                kThreads = Traits::kThreads;
  using KeyTile = typename Traits::OuterTile;
  using QueryTile = typename Traits::InnerTile;
  constexpr int kStageBytes = 2 * QueryTile::kBytes;
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ float2 statistics[2][kBlockM];
  const uint32_t keys = shared_address(shared), values = keys + KeyTile::kBytes, stages = values + KeyTile::kBytes;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  for (TileQueue<kBlockN> queue; queue.next(p, 1);) {
    const Piece piece = queue.piece(p);
    if (piece.rows <= 0) continue;
    const int* q_index = p.q_index + piece.q0;
    const int* k_index = p.k_index + piece.k0 + piece.first;
    const int* firsts = p.first_query + piece.k0 + piece.first;
    const int start = firsts[0] / kBlockM * kBlockM, steps = (piece.queries - start + kBlockM - 1) / kBlockM;
    const __nv_bfloat16 *q = head_of(p.q, piece), *dout = head_of(p.dout, piece);
    const float2* of_segment = p.statistics + piece.q0;
    Gatherer<kBlockM, kD, kThreads> query_rows;
    {
      Gatherer<kBlockN, kD, kThreads> key_rows;
      key_rows.look_up(k_index, 0, piece.rows);
      query_rows.look_up(q_index, start, piece.queries);
      key_rows.start(keys, head_of(p.k, piece), p.k.row_stride, p.D);
      key_rows.start(values, head_of(p.v, piece), p.v.row_stride, p.D);
    }
    const auto load = [&](int step) {
      const uint32_t stage = stages + step % 2 * kStageBytes;
      query_rows.start(stage, q, p.q.row_stride, p.D);
      query_rows.start(stage + QueryTile::kBytes, dout, p.dout.row_stride, p.D);
      if (threadIdx.x < kBlockM) {
        const int row = start + step * kBlockM + threadIdx.x;
        const bool valid = row < piece.queries;
        copy_async<8>(shared_address(&statistics[step % 2][threadIdx.x]), of_segment + (valid ? row : 0), valid);
      }
      commit_copies();
      query_rows.look_up(q_index, start + (step + 1) * kBlockM, piece.queries);
    };
    load(0);

    int begin_at[2], least = INT_MAX, most = 0;  // the first query that sees the row
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 8 * half + lane / 4;
      begin_at[half] = row < piece.rows ? firsts[row] : INT_MAX;
      least = min(least, begin_at[half]);
      most = max(most, begin_at[half]);
    }
    least = __reduce_min_sync(0xFFFFFFFFu, least);
    most = __reduce_max_sync(0xFFFFFFFFu, most);
    float dk[1][kD / 8][4] = {}, dv[1][kD / 8][4] = {};

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        load(step + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const int begin = start + step * kBlockM;
      if (begin + kBlockM > least) {  // some query of the step sees some key of the warp
        const uint32_t stage = stages + step % 2 * kStageBytes;
        float s[1][kBlockM / 8][4] = {}, ds[1][kBlockM / 8][4] = {};
        multiply_rows<1, kBlockM, kD, kBlockN>(s, keys, first, stage);
        multiply_rows<1, kBlockM, kD, kBlockN>(ds, values, first, stage + QueryTile::kBytes);
        const bool masked = begin < most || begin + kBlockM > piece.queries;
#pragma unroll
        for (int j = 0; j < kBlockM / 8; ++j)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int column = 8 * j + 2 * (lane % 4) + i % 2, query = begin + column;
            const float2 of_query = statistics[step % 2][column];
            float probability = exp2_fast(s[0][j][i] * p.scale_log2 - of_query.x);
            if (masked && (query < begin_at[i / 2] || query >= piece.queries)) probability = 0.0f;
            s[0][j][i] = probability;
            ds[0][j][i] = probability * (ds[0][j][i] - of_query.y);
          }
        multiply_scores<1, kBlockM, kD>(dv, s, stage + QueryTile::kBytes);
        multiply_scores<1, kBlockM, kD>(dk, ds, stage);
      }
      __syncthreads();
    }
    wait_copies<0>();
    __syncthreads();
    const float scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1.0f, 1.0f}};
    const Piece done = queue.piece(p);
    const int* tokens = p.k_index + done.k0 + done.first;
    scatter_rows<1, kD, kBlockN>(dk, scale, keys, first, done.rows, head_of(p.dk, done), p.dk.row_stride, tokens, p.D);
    scatter_rows<1, kD, kBlockN>(dv, one, values, first, done.rows, head_of(p.dv, done), p.dv.row_stride, tokens, p.D);
  }
}

// ---- rows in no segment, and delta ----------------------------------------------------------------------------------

__device__ inline uint4* chunk_at(const HeadRows& x, const AttentionParams& p, int64_t head, int token, int chunk) {
  return reinterpret_cast<uint4*>(x.data + head / p.H * x.batch_stride + token * x.row_stride +
                                  head % p.H * x.head_stride + chunk * 8);
}

// Calls clear(head, token) in every thread of a warp for each row of the warp's 32 that is in no segment.
template <class Clear>
__device__ inline void for_dropped(const AttentionParams& p, const uint16_t* segment, int64_t rows,
                                   const Clear& clear) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32 * 32,
                lane = threadIdx.x % 32;
  unsigned dropped = __ballot_sync(0xFFFFFFFFu, first + lane < rows && segment[first + lane] >= p.S);
  for (; dropped != 0; dropped &= dropped - 1) {
    const int64_t row = first + __ffs(static_cast<int>(dropped)) - 1;
    clear(row / p.T, static_cast<int>(row % p.T));
  }
}

// out = 0 and lse = +inf where a query is in no segment. A thread looks at a row, a warp clears those of its own.
__global__ void __launch_bounds__(256)
    clear_dropped_kernel(const AttentionParams p, const uint16_t* q_segment, int64_t rows) {
  const int lane = threadIdx.x % 32;
  for_dropped(p, q_segment, rows, [&](int64_t head, int token) {
    if (lane * 8 < p.D) *chunk_at(p.out, p, head, token, lane) = make_uint4(0, 0, 0, 0);
    if (lane == 0) p.lse[head * p.T + token] = INFINITY;
  });
}

// The same for the gradients.
__global__ void __launch_bounds__(256) clear_gradients_kernel(const AttentionParams p, const uint16_t* q_segment,
                                                              const uint16_t* k_segment, int64_t rows) {
  const int lane = threadIdx.x % 32;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  for_dropped(p, q_segment, rows, [&](int64_t head, int token) {
    if (lane * 8 < p.D) *chunk_at(p.dq, p, head, token, lane) = zero;
  });
  for_dropped(p, k_segment, rows, [&](int64_t head, int token) {
    if (lane * 8 >= p.D) return;
    *chunk_at(p.dk, p, head, token, lane) = zero;
    *chunk_at(p.dv, p, head, token, lane) = zero;
  });
}

// lse and delta = out . dout of every query in a segment. A group of kLanes lanes owns kEach rows of a head's sorted
// list, all on their way at once; `blocks` blocks look after a head.
constexpr int kEach = 4;
template <int kLanes>
__global__ void __launch_bounds__(256) statistics_kernel(const AttentionParams p, int blocks) {
  constexpr int kApart = 256 / kLanes;
  const int head = static_cast<int>(blockIdx.x) / blocks, chunk = threadIdx.x % kLanes;
  const int block_first = static_cast<int>(blockIdx.x) % blocks * kApart * kEach;
  const int first = block_first + static_cast<int>(threadIdx.x) / kLanes;
  const int rows = p.q_begin[static_cast<int64_t>(head) * (p.S + 1) + p.S];
  if (block_first >= rows) return;
  const int64_t list = static_cast<int64_t>(head) * p.T;
  const __nv_bfloat16* out = p.out.data + head / p.H * p.out.batch_stride + head % p.H * p.out.head_stride + chunk * 8;
  const __nv_bfloat16* dout =
      p.dout.data + head / p.H * p.dout.batch_stride + head % p.H * p.dout.head_stride + chunk * 8;
  int token[kEach];
  uint4 a[kEach] = {}, b[kEach] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) token[i] = first + i * kApart < rows ? p.q_index[list + first + i * kApart] : -1;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (token[i] < 0 || chunk * 8 >= p.D) continue;
    a[i] = *reinterpret_cast<const uint4*>(out + token[i] * p.out.row_stride);
    b[i] = *reinterpret_cast<const uint4*>(dout + token[i] * p.dout.row_stride);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const uint32_t x[4] = {a[i].x, a[i].y, a[i].z, a[i].w}, y[4] = {b[i].x, b[i].y, b[i].z, b[i].w};
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      sum += __uint_as_float(x[j] << 16) * __uint_as_float(y[j] << 16) +
             __uint_as_float(x[j] & 0xFFFF0000u) * __uint_as_float(y[j] & 0xFFFF0000u);
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    if (token[i] >= 0 && chunk == 0) p.statistics[list + first + i * kApart] = make_float2(p.lse[list + token[i]], sum);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

void check(cudaError_t status, const char* op) {
  if (status != cudaSuccess) fail(op, ": ", cudaGetErrorString(status));
}

HeadRows rows_of(const ConstTensor& t) {
  return {static_cast<__nv_bfloat16*>(const_cast<void*>(t.data)), t.stride[0], t.stride[1], t.stride[2]};
}

AttentionParams describe(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Segments& s,
                         float scale, const ConstTensor& lse, const Tensor& scratch) {
  AttentionParams p{};
  p.q = rows_of(q), p.k = rows_of(k), p.v = rows_of(v);
  p.lse = const_cast<float*>(lse.as<float>());
  p.statistics = reinterpret_cast<float2*>(scratch.as<float>() + kHeaderElements);
  float* rest = scratch.as<float>() + kHeaderElements + statistics_size(q.size(0) * q.size(1) * q.size(2));
  const sm90::Sums sums = sm90::sums_of(s, q.size(3));
  p.dq_semaphores = reinterpret_cast<unsigned*>(rest);
  p.ring_blocks = static_cast<int>(sums.ring_blocks), p.dq_accum_blocks = static_cast<int>(sums.dq_accum_blocks);
  p.dq_ring = rest + sums.semaphores;
  p.dq_accum = p.dq_ring + sums.ring;
  p.q_begin = s.q_begin.as<int32_t>(), p.k_begin = s.k_begin.as<int32_t>();
  p.q_index = s.q_index.as<int32_t>(), p.k_index = s.k_index.as<int32_t>();
  p.num_visible_keys = s.num_visible_keys.as<int32_t>(), p.first_query = s.first_query.as<int32_t>();
  p.tile_count = s.tile_count.as<int32_t>();
  p.H = static_cast<int>(q.size(2)), p.T = static_cast<int>(q.size(1));
  p.S = static_cast<int>(s.count()), p.D = static_cast<int>(q.size(3));
  p.scale = scale;
  p.scale_log2 = scale * kLog2E;
  return p;
}

// As many blocks as run at once, but no more than there can be tiles.
template <class Traits, class Kernel>
void launch_tiles(Context& ctx, const char* op, Kernel kernel, int outer_tiles, const Tensor& tiles,
                  const AttentionParams& p) {
  constexpr auto kThreads = static_cast<unsigned>(Traits::kThreads);
  const int shared_bytes = Traits::shared_bytes(outer_tiles);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), op);
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Traits::kThreads,
                                                      static_cast<size_t>(shared_bytes)),
        op);
  require(blocks > 0, op, ": ", properties().name, " has too little shared memory");
  const int64_t grid =
      std::min(tiles.size(0) * (kTile / Traits::kOuterRows), int64_t{blocks} * properties().multiprocessors);
  kernel<<<static_cast<unsigned>(grid), kThreads, static_cast<size_t>(shared_bytes), ctx.stream()>>>(p);
  check_launch(op, ctx.stream());
}

bool on_hopper() {
  return !uses_portable_attention() && sm90::probe().usable;
}

template <class Traits>
void forward(Context& ctx, AttentionParams p, const Segments& s, int64_t rows) {
  constexpr const char* kOp = "attention_forward";
  clear_dropped_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, ctx.stream()>>>(
      p, s.q_segment.as<uint16_t>(), rows);
  check_launch(kOp, ctx.stream());
  p.tiles = static_cast<const int4*>(s.q_tiles.data);
  if (on_hopper()) return sm90::forward(ctx, p, s);
  launch_tiles<Traits>(ctx, kOp, attention_forward_sm80_kernel<Traits>, 1, s.q_tiles, p);
}

template <class Dq, class DkDv>
void backward(Context& ctx, AttentionParams p, const Segments& s, int64_t rows) {
  constexpr const char* kOp = "attention_backward";
  constexpr int kLanes = Dq::kD / 8;
  clear_gradients_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, ctx.stream()>>>(
      p, s.q_segment.as<uint16_t>(), s.k_segment.as<uint16_t>(), rows);
  check_launch(kOp, ctx.stream());
  constexpr int kRowsABlock = 256 / kLanes * kEach;
  const int a_head = (p.T + kRowsABlock - 1) / kRowsABlock;
  statistics_kernel<kLanes><<<static_cast<unsigned>(rows / p.T * a_head), 256, 0, ctx.stream()>>>(p, a_head);
  check_launch(kOp, ctx.stream());
  if (on_hopper()) return sm90::backward(ctx, p, s);
  p.tiles = static_cast<const int4*>(s.q_tiles.data);
  launch_tiles<Dq>(ctx, kOp, attention_backward_dq_sm80_kernel<Dq>, 2, s.q_tiles, p);
  p.tiles = static_cast<const int4*>(s.k_tiles.data);
  ++p.tile_counter;
  launch_tiles<DkDv>(ctx, kOp, attention_backward_dk_dv_sm80_kernel<DkDv>, 2, s.k_tiles, p);
}

int* reset_tile_counters(Context& ctx, const Tensor& scratch) {
  fill(scratch.data, 0, kHeaderElements * sizeof(float), ctx.stream());
  return static_cast<int*>(scratch.data);
}

}  // namespace

std::string describe_attention(const Context& /*ctx*/) {
  if (on_hopper()) return "attention: Hopper kernels (wgmma); " + sm90::probe().reason;
  return "attention: portable kernels (mma.sync); " +
         (uses_portable_attention() ? "SCFA_ATTENTION=portable" : sm90::probe().reason);
}

// By compute capability, as memory is planned before anything runs: the trial that probe() makes is a launch.
int64_t attention_scratch(const Context& /*ctx*/, const Segments& segments, int64_t D) {
  return kHeaderElements + statistics_size(segments.q_segment.numel()) +
         (properties().compute == 90 ? sm90::sums_of(segments, D).floats() : 0);
}

void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch) {
  AttentionParams p = describe(q, k, v, segments, scale, lse, scratch);
  p.out = rows_of(out);
  p.tile_counter = reset_tile_counters(ctx, scratch);
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  if (q.size(3) <= 64)
    forward<Forward64>(ctx, p, segments, rows);
  else
    forward<Forward128>(ctx, p, segments, rows);
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm) {
  AttentionParams p = describe(q, k, v, segments, scale, lse, scratch);
  p.inverse_norm = inverse_norm ? inverse_norm.as<float>() : nullptr;
  p.out = rows_of(out), p.dout = rows_of(dout);
  p.dq = rows_of(dq), p.dk = rows_of(dk), p.dv = rows_of(dv);
  p.tile_counter = reset_tile_counters(ctx, scratch);
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  if (q.size(3) <= 64)
    backward<BackwardDq64, BackwardDkDv64>(ctx, p, segments, rows);
  else
    backward<BackwardDq128, BackwardDkDv128>(ctx, p, segments, rows);
  // The Hopper kernels take in what goes through normalised keys themselves, unless some head is untied.
  if (inverse_norm)
    normalise_keys_backward_if(ctx, dq, dk, k, inverse_norm, on_hopper() ? p.tile_count + kUntiedHeads : nullptr);
}

}  // namespace scfa::gpu

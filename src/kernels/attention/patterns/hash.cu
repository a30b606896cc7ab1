// The hash pattern on the GPU.
#include <type_traits>

#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/patterns/hash.h"
#include "kernels/tile.cuh"

namespace scfa::gpu {

AssignSegments assign_hash;
AssignSegmentsAndNormaliseKeys assign_hash_and_normalise_keys;

namespace {

constexpr int kHashRows = 128;  // rows per block, one per thread
constexpr int kMaxDirections = 32;

// Rows are staged in shared memory, so that global reads and writes are coalesced; each thread then holds its row in
// registers. Directions are read from shared memory, all threads of a warp from the same address (broadcast).

// Copies directions, zero behind D.
template <int kD>
__device__ inline void stage_directions(float* to, const float* directions, int half, int D) {
  for (int i = threadIdx.x; i < half * kD; i += kHashRows)
    to[i] = i % kD < D ? directions[(i / kD) * D + i % kD] : 0.0f;
}

template <int kD>
__device__ inline float inverse_norm_of(const float (&row)[kD]) {
  float square = 0.0f;
#pragma unroll
  for (int d = 0; d < kD; ++d) square = fmaf(row[d], row[d], square);
  return 1.0f / fmaxf(sqrtf(square), 1e-12f);
}

// A score in fixed point (hash_balance.h), of the same bits in every kernel.
template <int kD>
__device__ inline int score_of(const float (&row)[kD], const float4* direction, float inverse_norm) {
  float y[4] = {};
#pragma unroll
  for (int d = 0; d < kD / 4; ++d) {
    const float4 at = direction[d];
    y[0] = fmaf(row[4 * d], at.x, y[0]), y[1] = fmaf(row[4 * d + 1], at.y, y[1]);
    y[2] = fmaf(row[4 * d + 2], at.z, y[2]), y[3] = fmaf(row[4 * d + 3], at.w, y[3]);
  }
  return fixed_point(((y[0] + y[1]) + (y[2] + y[3])) * inverse_norm);
}

// Of the scores of a warp's rows, and of their squares. By all lanes.
struct WarpSums {
  int sum;
  unsigned square;
  __device__ explicit WarpSums(int y)
      : sum(__reduce_add_sync(0xFFFFFFFFu, y)),
        square(__reduce_add_sync(0xFFFFFFFFu, static_cast<unsigned>(y * y >> kSquareShift))) {}
  WarpSums() = default;
};

// What a balanced hash is given besides.
struct BalanceParams {
  int16_t* scores;   // see HashScratch
  int2* chunk_sums;  // x: of scores, y: of squares, unsigned
  int64_t stride;    // of scores
  int chunks, half, D;
  HashBalance balance;
  ScoreState* state;     // of the round and of q or k
  int64_t state_stride;  // from head to head
  int64_t first_position;
  const float* bias;  // (heads, 2 half), or null
  __device__ const float* bias_of(int i) const { return bias == nullptr ? nullptr : bias + i * 2 * half; }
  __device__ int16_t* scores_of(int head) const { return scores + head * half * stride; }
  __device__ int2* sums_of(int head, int chunk) const { return chunk_sums + (int64_t{head} * chunks + chunk) * half; }
  __device__ ScoreState* state_of(int head) const { return state + head * state_stride; }
};

enum class HashMode {
  kProducts,  // the bucket of the largest |x . direction|
  kBiased,    // that of the largest +-x . direction sqrt(D) / |x| + bias
  kScores,    // no bucket yet, but the scores and the sums of each chunk, for choose_buckets_kernel
};

// The buckets of each row; see HashMode. With kKeys also keys = x / |x|. grid: (heads, T / kHashRows, B), heads
// fastest, since rows of all heads of a position are adjacent in memory.
template <int kD, bool kKeys, HashMode kMode, int kProbes>
__global__ void __launch_bounds__(kHashRows)
    hash_rows_kernel(const BucketOutputs out, HeadRows keys, float* inverse_norm, HeadRows x, const float* projections,
                     int half, int first_head, int H, int T, int D, const BalanceParams balance) {
  using Rows = Tile<kHashRows, kD>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t tile = shared_address(shared);
  const auto* directions = reinterpret_cast<const float4*>(shared + Rows::kBytes);  // (half, kD / 4), zero behind D
  const int h = first_head + static_cast<int>(blockIdx.x), b = blockIdx.z, first = blockIdx.y * kHashRows,
            used = min(kHashRows, T - first);
  const __nv_bfloat16* rows = x.row(b, first, x.head_of(h));
#pragma unroll
  for (int i = 0; i < Rows::kChunks; ++i) {
    const int at = i * kHashRows + static_cast<int>(threadIdx.x), row = at / Rows::kChunks, chunk = at % Rows::kChunks;
    const bool valid = row < used && chunk * kPack < D;
    copy_async<16>(Rows::at(tile, row, chunk), rows + (valid ? row * x.row_stride + chunk * kPack : 0), valid);
  }
  commit_copies();
  stage_directions<kD>(reinterpret_cast<float*>(shared + Rows::kBytes),
                       projections + static_cast<int64_t>(blockIdx.x) * half * D, half, D);
  wait_copies<0>();
  __syncthreads();
  const int own = threadIdx.x;
  float row[kD];
#pragma unroll
  for (int chunk = 0; chunk < Rows::kChunks; ++chunk) {
    const auto* at = reinterpret_cast<const uint4*>(shared + (Rows::at(tile, own, chunk) - tile));
    float v[kPack];
    unpack(v, *at);
#pragma unroll
    for (int i = 0; i < kPack; ++i) row[chunk * kPack + i] = v[i];
  }
  const float scale = kKeys || kMode != HashMode::kProducts ? inverse_norm_of(row) : 0.0f;
  if constexpr (kMode == HashMode::kScores) {
    // Where the rows were: with them, and 32 directions of 128, all of the 48 KB that need no opt-in are in use.
    auto* warp_sums = reinterpret_cast<int2(*)[kMaxDirections]>(shared);
    __syncthreads();
    const int head = b * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    int16_t* scores = balance.scores_of(head) + first + own;
    for (int c = 0; c < half; ++c) {
      const int y = score_of(row, directions + c * (kD / 4), scale);  // rows behind the last one are zeros
      const WarpSums sums(y);
      if (own < used) scores[c * balance.stride] = static_cast<int16_t>(y);
      if (own % 32 == 0) warp_sums[own / 32][c] = make_int2(sums.sum, static_cast<int>(sums.square));
    }
    __syncthreads();
    if (own < half) {
      int2 total = warp_sums[0][own];
      for (int w = 1; w < kHashRows / 32; ++w) total.x += warp_sums[w][own].x, total.y += warp_sums[w][own].y;
      balance.sums_of(head, static_cast<int>(blockIdx.y))[own] = total;
    }
    if (kKeys) __syncthreads();
  } else {
    BestBuckets<kProbes> best;
    const float* bias = kMode == HashMode::kBiased ? balance.bias + blockIdx.x * 2 * half : nullptr;
    const float unit = kMode == HashMode::kBiased ? scale * sqrtf(static_cast<float>(D)) : 1.0f;
    for (int c = 0; c < half; ++c) {
      float y = 0.0f;
#pragma unroll
      for (int d = 0; d < kD / 4; ++d) {
        const float4 direction = directions[c * (kD / 4) + d];
        y += row[4 * d] * direction.x + row[4 * d + 1] * direction.y + row[4 * d + 2] * direction.z +
             row[4 * d + 3] * direction.w;
      }
      best.offer(kMode == HashMode::kBiased ? rounded_product(y, unit) : y, c, half, bias);
    }
    if (own < used) out.write((static_cast<int64_t>(b) * H + h) * T + first + own, best);
  }
  if constexpr (kKeys) {
    if (own < used) inverse_norm[(static_cast<int64_t>(b) * T + first + own) * H + h] = scale;
#pragma unroll
    for (int chunk = 0; chunk < Rows::kChunks; ++chunk) {
      float v[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[i] = row[chunk * kPack + i] * scale;
      *reinterpret_cast<uint4*>(shared + (Rows::at(tile, own, chunk) - tile)) = pack(v);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Rows::kChunks; ++i) {
      const int at = i * kHashRows + static_cast<int>(threadIdx.x), r = at / Rows::kChunks, chunk = at % Rows::kChunks;
      if (r >= used || chunk * kPack >= D) continue;
      __stwb(reinterpret_cast<uint4*>(keys.row(b, first + r, h) + chunk * kPack),
             *reinterpret_cast<const uint4*>(shared + (Rows::at(tile, r, chunk) - tile)));
    }
  }
}

// The bucket of each row of a chunk, by statistics over the preceding chunks. In the first chunk they are over the
// preceding warps that statistics_rows includes. The block of the last chunk writes the state. grid: (heads, chunks, B)
template <int kProbes>
__global__ void __launch_bounds__(kHashRows)
    choose_buckets_kernel(const BucketOutputs out, int first_head, int H, int T, const BalanceParams p) {
  static_assert(kHashRows == kScoreChunk && kFirstScoreChunk == 32);
  constexpr int kWarps = kHashRows / 32;
  __shared__ ScoreSums parts[kHashRows], before[kMaxDirections];
  __shared__ int2 warp_sums[kWarps][kMaxDirections];
  __shared__ ScoreStatistics statistics[kWarps][kMaxDirections];
  const int own = threadIdx.x, warp = own / 32, lane = own % 32, half = p.half;
  const int chunk = blockIdx.y, t = chunk * kScoreChunk + own;
  const int head = static_cast<int>(blockIdx.z * gridDim.x + blockIdx.x);
  const int16_t* scores = p.scores_of(head) + min(t, T - 1);
  const bool is_last = chunk == p.chunks - 1;
  if (chunk == 0) {
    for (int c = 0; c < half; ++c) {
      const WarpSums sums(t < T ? scores[c * p.stride] : 0);
      if (lane == 0) warp_sums[warp][c] = make_int2(sums.sum, static_cast<int>(sums.square));
    }
    __syncthreads();
    const auto sums_before = [&](int rows, int c) {
      ScoreSums sums{};
      for (int w = 0; w < rows / 32; ++w)
        sums.sum += warp_sums[w][c].x, sums.square += static_cast<unsigned>(warp_sums[w][c].y);
      return sums;
    };
    const int rows = static_cast<int>(statistics_rows(warp * 32));
    if (lane < half) statistics[warp][lane] = score_statistics(sums_before(rows, lane), rows, p.D, p.balance);
    if (is_last && own < half) before[own] = sums_before(static_cast<int>(statistics_rows(T - 1)), own);
  } else {
    const int ways = kHashRows / half, c = own % half, way = own / half;
    ScoreSums sums{};
    if (way < ways)
      for (int i = way; i < chunk; i += ways) {
        const int2 at = p.sums_of(head, i)[c];
        sums.sum += at.x, sums.square += static_cast<unsigned>(at.y);
      }
    parts[own] = sums;
    __syncthreads();
    if (own < half) {
      for (int i = 1; i < ways; ++i) sums.sum += parts[i * half + own].sum, sums.square += parts[i * half + own].square;
      before[own] = sums;
      statistics[0][own] = score_statistics(sums, int64_t{chunk} * kScoreChunk, p.D, p.balance);
    }
  }
  __syncthreads();
  const ScoreStatistics* its = statistics[chunk == 0 ? warp : 0];
  BestBuckets<kProbes> best;
  const float* bias = p.bias_of(static_cast<int>(blockIdx.x));
  for (int c = 0; c < half; ++c) best.offer(standardised(scores[c * p.stride], its[c]), c, half, bias);
  if (t < T) out.write((static_cast<int64_t>(blockIdx.z) * H + first_head + blockIdx.x) * T + t, best);
  if (is_last && own < half) {
    ScoreSums all = chunk == 0 ? ScoreSums{} : before[own];
    const int2 mine = p.sums_of(head, chunk)[own];
    all.sum += mine.x, all.square += static_cast<unsigned>(mine.y);
    p.state_of(head)[own] = {before[own], all};
  }
}

// Scores and buckets of rows that continue from a state (generation): chunk by chunk, one block per head. keys, norms:
// as in hash_rows_kernel, or norms is null. grid: (heads, 1, B)
template <int kD, int kProbes>
__global__ void __launch_bounds__(kHashRows)
    hash_further_rows_kernel(const BucketOutputs out, HeadRows keys, float* norms, HeadRows x, const float* projections,
                             int first_head, int H, int T, const BalanceParams p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  auto* directions = reinterpret_cast<float*>(shared);
  __shared__ ScoreState state[kMaxDirections];
  __shared__ ScoreStatistics statistics[kMaxDirections];
  __shared__ int2 warp_sums[kHashRows / 32][kMaxDirections];
  const int own = threadIdx.x, half = p.half, h = first_head + static_cast<int>(blockIdx.x), b = blockIdx.z;
  const int head = b * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  stage_directions<kD>(directions, projections + static_cast<int64_t>(blockIdx.x) * half * p.D, half, p.D);
  if (own < half) state[own] = p.state_of(head)[own];
  for (int first = 0, count = 0; first < T; first += count) {
    const int64_t position = p.first_position + first, rows = statistics_rows(position);
    const int64_t chunk_end =
        rows < 2 * kFirstScoreChunk ? rows + kFirstScoreChunk : (rows / kScoreChunk + 1) * kScoreChunk;
    count = static_cast<int>(min(chunk_end - position, static_cast<int64_t>(T - first)));
    if (own < half) {
      if (position == rows) state[own].before = state[own].all;
      statistics[own] = score_statistics(state[own].before, rows, p.D, p.balance);
    }
    __syncthreads();
    const int t = first + own;
    float row[kD] = {};
    if (own < count) load_row(row, x.row(b, t, x.head_of(h)), p.D);
    const float inverse_norm = inverse_norm_of(row);
    if (norms != nullptr && own < count) {
      norms[(static_cast<int64_t>(b) * T + t) * H + h] = inverse_norm;
#pragma unroll
      for (int d = 0; d < kD; d += kPack)
        if (d < p.D) {
          float v[kPack];
#pragma unroll
          for (int i = 0; i < kPack; ++i) v[i] = row[d + i] * inverse_norm;
          store(keys.row(b, t, h) + d, v);
        }
    }
    BestBuckets<kProbes> best;
    for (int c = 0; c < half; ++c) {
      const int y = score_of(row, reinterpret_cast<const float4*>(directions) + c * (kD / 4), inverse_norm);
      best.offer(standardised(y, statistics[c]), c, half, p.bias_of(static_cast<int>(blockIdx.x)));
      const WarpSums sums(y);
      if (own % 32 == 0) warp_sums[own / 32][c] = make_int2(sums.sum, static_cast<int>(sums.square));
    }
    if (own < count) out.write((static_cast<int64_t>(b) * H + h) * T + t, best);
    __syncthreads();
    if (own < half)
      for (const auto& of_warp : warp_sums)
        state[own].all.sum += of_warp[own].x, state[own].all.square += static_cast<unsigned>(of_warp[own].y);
  }
  if (own < half) p.state_of(head)[own] = state[own];
}

BalanceParams balance_params(const AttentionPattern& pattern, const PatternInput& input, int64_t round, bool of_keys) {
  const HashBalance balance = balance_of(pattern);
  BalanceParams params{};
  params.balance = balance;
  params.bias = bucket_bias(input, round, of_keys);
  if (balance == HashBalance::kNone) return params;
  const int64_t half = pattern.buckets / 2, T = input.q.size(1);
  const HashScratch scratch(half, T);
  const int64_t heads = input.q.size(0) * input.heads;
  auto* scores = input.scratch.as<float>();
  params.scores = reinterpret_cast<int16_t*>(scores);
  params.chunk_sums = reinterpret_cast<int2*>(scores + heads * scratch.score_elements());
  params.stride = scratch.stride;
  params.chunks = static_cast<int>(scratch.chunks);
  params.half = static_cast<int>(half);
  params.D = static_cast<int>(input.q.size(3));
  params.state = score_state(input, 0, 0) + score_state_offset(pattern, round, of_keys);
  params.state_stride = input.state.size(2) / kStateElements;
  params.first_position = input.first_position;
  return params;
}

// The buckets of the rows of x: queries, or keys that are not the queries. If x has fewer than H heads, several
// consecutive query heads read each of them.
//   keys, inverse_norm  of the fused normalisation (kProbes = 1), or empty
template <int kProbes>
void hash_rows(Context& ctx, const BucketOutputs& out, const ConstTensor& x, bool of_keys, int64_t round,
               const AttentionPattern& pattern, const PatternInput& input, Tensor keys, Tensor inverse_norm) {
  require_packs("assign_segments", "rows to hash", x);
  const ConstTensor directions = input.projections.select(round);
  const auto H = static_cast<int>(input.q.size(2)), first_head = static_cast<int>(input.first_head);
  const int T = static_cast<int>(x.size(1)), D = static_cast<int>(x.size(3));
  const int half = static_cast<int>(directions.size(1));
  const BalanceParams balance = balance_params(pattern, input, round, of_keys);
  const HeadRows rows = head_rows(x, H / static_cast<int>(x.size(2))),
                 key_rows = head_rows(keys ? ConstTensor(keys) : x);
  float* norms = keys ? inverse_norm.as<float>() : nullptr;
  const dim3 grid(static_cast<unsigned>(input.heads), static_cast<unsigned>((T + kHashRows - 1) / kHashRows),
                  static_cast<unsigned>(x.size(0)));
  const HashMode mode = balance.balance != HashBalance::kNone ? HashMode::kScores
                        : balance.bias != nullptr             ? HashMode::kBiased
                                                              : HashMode::kProducts;
  if (mode == HashMode::kScores && input.first_position > 0) {
    const auto kernel = D <= 64 ? hash_further_rows_kernel<64, kProbes> : hash_further_rows_kernel<128, kProbes>;
    const auto bytes = static_cast<size_t>(half * (D <= 64 ? 64 : 128) * 4);
    kernel<<<dim3(grid.x, 1, grid.z), kHashRows, bytes, ctx.stream()>>>(
        out, key_rows, norms, rows, directions.as<float>(), first_head, H, T, balance);
    return check_launch("assign_segments", ctx.stream());
  }
  const auto launch = [&](auto width, auto with_keys, auto its_mode) {
    constexpr int kModeProbes = its_mode == HashMode::kScores ? 1 : kProbes;  // kScores chooses no bucket
    const auto bytes = static_cast<size_t>(kHashRows * width * 2 + half * width * 4);
    hash_rows_kernel<width, with_keys, its_mode, kModeProbes><<<grid, kHashRows, bytes, ctx.stream()>>>(
        out, key_rows, norms, rows, directions.as<float>(), half, first_head, H, T, D, balance);
  };
  const auto with_keys = [&](auto width, auto its_mode) {
    if constexpr (kProbes == 1)
      if (keys) return launch(width, std::true_type(), its_mode);
    launch(width, std::false_type(), its_mode);
  };
  const auto with_mode = [&](auto width) {
    switch (mode) {
      case HashMode::kProducts:
        return with_keys(width, std::integral_constant<HashMode, HashMode::kProducts>());
      case HashMode::kBiased:
        return with_keys(width, std::integral_constant<HashMode, HashMode::kBiased>());
      case HashMode::kScores:
        return with_keys(width, std::integral_constant<HashMode, HashMode::kScores>());
    }
  };
  D <= 64 ? with_mode(std::integral_constant<int, 64>()) : with_mode(std::integral_constant<int, 128>());
  check_launch("assign_segments", ctx.stream());
  if (mode != HashMode::kScores) return;
  choose_buckets_kernel<kProbes><<<grid, kHashRows, 0, ctx.stream()>>>(out, first_head, H, T, balance);
  check_launch("assign_segments", ctx.stream());
}

}  // namespace

void assign_hash(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  assign_rounds(ctx, relations, pattern, input,
                [&](const BucketOutputs& out, const ConstTensor& x, bool of_keys, int64_t round, auto probes) {
                  hash_rows<probes>(ctx, out, x, of_keys, round, pattern, input, {}, {});
                });
}

void assign_hash_and_normalise_keys(Context& ctx, const Segments& relation, Tensor keys, Tensor inverse_norm,
                                    const AttentionPattern& pattern, const PatternInput& input) {
  BucketOutputs out = BucketOutputs::of_queries({&relation, 1}, pattern, 0);
  out.add_keys({&relation, 1}, pattern, 0);
  hash_rows<1>(ctx, out, input.q, false, 0, pattern, input, keys, inverse_norm);
}

}  // namespace scfa::gpu

// GPU forms of the patterns: which segment each row belongs to.
#include <algorithm>

#include "core/rng.h"
#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/patterns.h"
#include "kernels/attention/tile.cuh"

namespace scfa::gpu {

namespace {

// One block per head, one warp per direction.
__global__ void __launch_bounds__(256)
    projections_kernel(float* projections, int columns, int D, uint64_t seed, uint32_t step, uint32_t layer) {
  const int lane = threadIdx.x % 32;
  const auto h = static_cast<uint32_t>(blockIdx.x);
  for (int c = threadIdx.x / 32; c < columns; c += blockDim.x / 32) {
    float* direction = projections + (static_cast<int64_t>(h) * columns + c) * D;
    const auto number = [&](int d) {
      const int at = c * D + d;
      const Random4 bits = random4(seed, Purpose::kProjection, step, layer, h, 0, static_cast<uint32_t>(at / 2));
      float x, y;
      normal2(bits.v[0], bits.v[1], x, y);
      return at % 2 == 0 ? x : y;
    };
    double square = 0.0;
    for (int d = lane; d < D; d += 32) {
      const double x = number(d);
      square += x * x;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) square += __shfl_xor_sync(0xFFFFFFFFu, square, offset);
    const auto scale = static_cast<float>(1.0 / sqrt(square));
    for (int d = lane; d < D; d += 32) direction[d] = number(d) * scale;
  }
}

constexpr int kHashRows = 128;  // rows per block, one per thread

// bucket = index of the largest |x . direction|, plus half where the product is negative; with kKeys also
// keys = x / |x|. Rows are staged in shared memory, so that global reads and writes are coalesced; each thread then
// holds its row in registers. Directions are read from shared memory, all threads of a warp from the same address
// (broadcast). grid: (H, T / kHashRows, B), heads fastest, since rows of all heads of a position are adjacent in
// memory.
template <int kD, bool kKeys>
__global__ void __launch_bounds__(kHashRows)
    hash_rows_kernel(uint16_t* q_segment, uint16_t* k_segment, HeadRows keys, float* inverse_norm, HeadRows x,
                     const float* projections, int half, int T, int D) {
  using Rows = Tile<kHashRows, kD>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t tile = shared_address(shared);
  const auto* directions = reinterpret_cast<const float4*>(shared + Rows::kBytes);  // (half, kD / 4), zero behind D
  const int h = blockIdx.x, b = blockIdx.z, H = gridDim.x, first = blockIdx.y * kHashRows,
            used = min(kHashRows, T - first);
  constexpr int kEach = kHashRows * Rows::kChunks / kHashRows;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = i * kHashRows + static_cast<int>(threadIdx.x), row = at / Rows::kChunks, chunk = at % Rows::kChunks;
    const bool valid = row < used && chunk * kPack < D;
    copy_async<16>(Rows::at(tile, row, chunk), x.row(b, first + (valid ? row : 0), h) + (valid ? chunk * kPack : 0),
                   valid);
  }
  commit_copies();
  auto* flat = reinterpret_cast<float*>(shared + Rows::kBytes);
  for (int i = threadIdx.x; i < half * kD; i += kHashRows)
    flat[i] = i % kD < D ? projections[(static_cast<int64_t>(h) * half + i / kD) * D + i % kD] : 0.0f;
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
  float best = -1.0f;
  int bucket = 0;
  for (int c = 0; c < half; ++c) {
    float y = 0.0f;
#pragma unroll
    for (int d = 0; d < kD / 4; ++d) {
      const float4 direction = directions[c * (kD / 4) + d];
      y += row[4 * d] * direction.x + row[4 * d + 1] * direction.y + row[4 * d + 2] * direction.z +
           row[4 * d + 3] * direction.w;
    }
    if (fabsf(y) > best) {
      best = fabsf(y);
      bucket = y < 0.0f ? c + half : c;
    }
  }
  if (own < used) {
    const int64_t at = (static_cast<int64_t>(b) * H + h) * T + first + own;
    q_segment[at] = static_cast<uint16_t>(bucket);
    if (k_segment != nullptr) k_segment[at] = static_cast<uint16_t>(bucket);
  }
  if constexpr (kKeys) {
    float square = 0.0f;
#pragma unroll
    for (int d = 0; d < kD; ++d) square += row[d] * row[d];
    const float scale = 1.0f / fmaxf(sqrtf(square), 1e-12f);
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
    for (int i = 0; i < kEach; ++i) {
      const int at = i * kHashRows + static_cast<int>(threadIdx.x), r = at / Rows::kChunks, chunk = at % Rows::kChunks;
      if (r >= used || chunk * kPack >= D) continue;
      __stwb(reinterpret_cast<uint4*>(keys.row(b, first + r, h) + chunk * kPack),
             *reinterpret_cast<const uint4*>(shared + (Rows::at(tile, r, chunk) - tile)));
    }
  }
}

// Bit-identical to the CPU. One thread per row; four consecutive positions use the four words of one Philox draw.
__global__ void __launch_bounds__(256)
    drop_kernel(uint16_t* segment, Purpose purpose, float rate, const int* samples, uint64_t seed, uint32_t step,
                uint32_t layer, int64_t first, int T, int H, int64_t rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const int64_t position = first + i % T, b = i / T / H;
  const Random4 bits = random4(seed, purpose, step, layer, static_cast<uint32_t>(i / T % H),
                               static_cast<uint32_t>(samples[b]), static_cast<uint32_t>(position / 4));
  const int which = static_cast<int>(position % 4);
  const uint32_t word = which == 0 ? bits.v[0] : which == 1 ? bits.v[1] : which == 2 ? bits.v[2] : bits.v[3];
  segment[i] = uniform(word) < rate ? kNoSegment : uint16_t{0};
}

// ---------------------------------------------------------------------------------------------------------------------

// keys, inverse_norm: outputs of the fused normalisation, or empty. k_segment: gets the same buckets, or null.
void hash_rows(Context& ctx, uint16_t* q_segment, uint16_t* k_segment, const Tensor& keys, const Tensor& inverse_norm,
               const ConstTensor& x, const ConstTensor& projections) {
  require_packs("assign_segments", "rows to hash", x);
  const int T = static_cast<int>(x.size(1)), D = static_cast<int>(x.size(3));
  const int half = static_cast<int>(projections.size(1));
  const dim3 grid(static_cast<unsigned>(x.size(2)), static_cast<unsigned>((T + kHashRows - 1) / kHashRows),
                  static_cast<unsigned>(x.size(0)));
  const auto launch = [&](auto kernel, int padded) {
    const auto bytes = static_cast<size_t>(kHashRows * padded * 2 + half * padded * 4);
    kernel<<<grid, kHashRows, bytes, ctx.stream()>>>(q_segment, k_segment, head_rows(keys ? ConstTensor(keys) : x),
                                                     keys ? inverse_norm.as<float>() : nullptr, head_rows(x),
                                                     projections.as<float>(), half, T, D);
  };
  if (D <= 64)
    launch(keys ? hash_rows_kernel<64, true> : hash_rows_kernel<64, false>, 64);
  else
    launch(keys ? hash_rows_kernel<128, true> : hash_rows_kernel<128, false>, 128);
  check_launch("assign_segments", ctx.stream());
}

void drop_rows(Context& ctx, const Tensor& segment, Purpose purpose, double rate, const PatternInput& input) {
  const int64_t rows = segment.numel();
  drop_kernel<<<static_cast<unsigned>((rows + 255) / 256), 256, 0, ctx.stream()>>>(
      segment.as<uint16_t>(), purpose, static_cast<float>(rate), input.samples.as<int32_t>(), input.seed, input.step,
      input.layer, input.first_position, static_cast<int>(segment.size(2)), static_cast<int>(segment.size(1)), rows);
  check_launch("assign_segments", ctx.stream());
}

}  // namespace

void draw_projections(Context& ctx, Tensor projections, uint64_t seed, uint32_t step, uint32_t layer) {
  projections_kernel<<<static_cast<unsigned>(projections.size(0)), 256, 0, ctx.stream()>>>(
      projections.as<float>(), static_cast<int>(projections.size(1)), static_cast<int>(projections.size(2)), seed, step,
      layer);
  check_launch("draw_projections", ctx.stream());
}

void assign_dense(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern&, const PatternInput&) {
  ctx.zero(q_segment);
  ctx.zero(k_segment);
}

void assign_hash(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                 const PatternInput& input) {
  if (pattern.buckets == 1) return assign_dense(ctx, q_segment, k_segment, pattern, input);
  auto *q = q_segment.as<uint16_t>(), *k = k_segment.as<uint16_t>();
  hash_rows(ctx, q, input.k ? nullptr : k, {}, {}, input.q, input.projections);
  if (input.k) hash_rows(ctx, k, nullptr, {}, {}, input.k, input.projections);
}

void assign_hash_and_normalise_keys(Context& ctx, Tensor q_segment, Tensor k_segment, Tensor keys, Tensor inverse_norm,
                                    const AttentionPattern& /*pattern*/, const PatternInput& input) {
  hash_rows(ctx, q_segment.as<uint16_t>(), k_segment.as<uint16_t>(), keys, inverse_norm, input.q, input.projections);
}

void assign_drop(Context& ctx, Tensor q_segment, Tensor k_segment, const AttentionPattern& pattern,
                 const PatternInput& input) {
  drop_rows(ctx, q_segment, Purpose::kDropQuery, pattern.drop_rate, input);
  drop_rows(ctx, k_segment, Purpose::kDropKey, pattern.drop_rate, input);
}

}  // namespace scfa::gpu

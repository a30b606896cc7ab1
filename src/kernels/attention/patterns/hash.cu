// The hash pattern on the GPU.
#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/tile.cuh"

namespace scfa::gpu {

AssignSegments assign_hash;
AssignSegmentsAndNormaliseKeys assign_hash_and_normalise_keys;

namespace {

constexpr int kHashRows = 128;  // rows per block, one per thread

// bucket = index of the largest |x . direction|, plus half where the product is negative; with kKeys also
// keys = x / |x|. Rows are staged in shared memory, so that global reads and writes are coalesced; each thread then
// holds its row in registers. Directions are read from shared memory, all threads of a warp from the same address
// (broadcast). grid: (heads, T / kHashRows, B), heads fastest, since rows of all heads of a position are adjacent in
// memory.
template <int kD, bool kKeys>
__global__ void __launch_bounds__(kHashRows)
    hash_rows_kernel(uint16_t* q_segment, uint16_t* k_segment, HeadRows keys, float* inverse_norm, HeadRows x,
                     const float* projections, int half, int first_head, int H, int T, int D) {
  using Rows = Tile<kHashRows, kD>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t tile = shared_address(shared);
  const auto* directions = reinterpret_cast<const float4*>(shared + Rows::kBytes);  // (half, kD / 4), zero behind D
  const int h = first_head + static_cast<int>(blockIdx.x), b = blockIdx.z, first = blockIdx.y * kHashRows,
            used = min(kHashRows, T - first);
  const __nv_bfloat16* rows = x.row(b, first, x.head_of(h));
  constexpr int kEach = kHashRows * Rows::kChunks / kHashRows;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = i * kHashRows + static_cast<int>(threadIdx.x), row = at / Rows::kChunks, chunk = at % Rows::kChunks;
    const bool valid = row < used && chunk * kPack < D;
    copy_async<16>(Rows::at(tile, row, chunk), rows + (valid ? row * x.row_stride + chunk * kPack : 0), valid);
  }
  commit_copies();
  auto* flat = reinterpret_cast<float*>(shared + Rows::kBytes);
  for (int i = threadIdx.x; i < half * kD; i += kHashRows)
    flat[i] = i % kD < D ? projections[(static_cast<int64_t>(blockIdx.x) * half + i / kD) * D + i % kD] : 0.0f;
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

// x has H heads or fewer, each that of several consecutive ones. directions: (heads, half, D). keys, inverse_norm:
// outputs of the fused normalisation, or empty. k_segment: gets the same buckets, or null.
void hash_rows(Context& ctx, uint16_t* q_segment, uint16_t* k_segment, const Tensor& keys, const Tensor& inverse_norm,
               const ConstTensor& x, const ConstTensor& directions, const PatternInput& input) {
  require_packs("assign_segments", "rows to hash", x);
  const auto H = static_cast<int>(input.q.size(2));
  const int T = static_cast<int>(x.size(1)), D = static_cast<int>(x.size(3));
  const int half = static_cast<int>(directions.size(1));
  const dim3 grid(static_cast<unsigned>(input.heads), static_cast<unsigned>((T + kHashRows - 1) / kHashRows),
                  static_cast<unsigned>(x.size(0)));
  const auto launch = [&](auto kernel, int padded) {
    const auto bytes = static_cast<size_t>(kHashRows * padded * 2 + half * padded * 4);
    kernel<<<grid, kHashRows, bytes, ctx.stream()>>>(
        q_segment, k_segment, head_rows(keys ? ConstTensor(keys) : x), keys ? inverse_norm.as<float>() : nullptr,
        head_rows(x, H / static_cast<int>(x.size(2))), directions.as<float>(), half, static_cast<int>(input.first_head),
        H, T, D);
  };
  if (D <= 64)
    launch(keys ? hash_rows_kernel<64, true> : hash_rows_kernel<64, false>, 64);
  else
    launch(keys ? hash_rows_kernel<128, true> : hash_rows_kernel<128, false>, 128);
  check_launch("assign_segments", ctx.stream());
}

}  // namespace

void assign_hash(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                 const PatternInput& input) {
  for (int64_t round = 0; round < pattern.rounds; ++round) {
    const Segments& relation = relations[static_cast<size_t>(round)];
    if (pattern.buckets == 1) {
      for (const Tensor& segment : {relation.q_segment, relation.k_segment})
        fill_heads(ctx, segment, input.first_head, input.heads, 0);
      continue;
    }
    const ConstTensor directions = input.projections.select(round);
    auto *q = relation.q_segment.as<uint16_t>(), *k = relation.k_segment.as<uint16_t>();
    hash_rows(ctx, q, input.k ? nullptr : k, {}, {}, input.q, directions, input);
    if (input.k) hash_rows(ctx, k, nullptr, {}, {}, input.k, directions, input);
  }
}

void assign_hash_and_normalise_keys(Context& ctx, const Segments& relation, Tensor keys, Tensor inverse_norm,
                                    const AttentionPattern& /*pattern*/, const PatternInput& input) {
  hash_rows(ctx, relation.q_segment.as<uint16_t>(), relation.k_segment.as<uint16_t>(), keys, inverse_norm, input.q,
            input.projections.select(0), input);
}

}  // namespace scfa::gpu

// GPU implementation of blocks.cpp.
#include <algorithm>

#include "kernels/attention/head_rows.cuh"
#include "kernels/attention/patterns/descriptor.h"
#include "kernels/attention/patterns/top_k.h"

namespace scfa::gpu {

namespace {

struct BlocksParams {
  HeadRows q, k;
  float* sums;  // (B, heads, blocks, D): sums of keys
  uint16_t *q_segment[kMaxRelations], *k_segment[kMaxRelations];
  int block, top_k, blocks;  // blocks: of the state
  int T, H, D, first_head, heads;
  int64_t first_position;
};

// Adds up the keys of a block in the order of their positions, as generation does it one by one: the sums have the same
// bits. A thread adds up two columns. grid: (blocks that the rows are in, heads, B)
__global__ void __launch_bounds__(64) block_sums_kernel(const BlocksParams p) {
  constexpr int kAtOnce = 16;  // rows whose loads are under way together
  const int d = 2 * static_cast<int>(threadIdx.x), i = blockIdx.y, b = blockIdx.z;
  if (d >= p.D) return;
  const int64_t block = p.first_position / p.block + blockIdx.x;
  const int64_t begin = max(block * p.block, p.first_position),
                end = min((block + 1) * p.block, p.first_position + p.T);
  float2* to =
      reinterpret_cast<float2*>(p.sums + ((static_cast<int64_t>(b) * p.heads + i) * p.blocks + block) * p.D + d);
  const __nv_bfloat16* rows = p.k.row(b, 0, p.k.head_of(p.first_head + i)) + d;
  float2 sum = begin == block * p.block ? make_float2(0.0f, 0.0f) : *to;
  for (int64_t position = begin; position < end; position += kAtOnce) {
    __nv_bfloat162 x[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (position + j < end)
        x[j] = *reinterpret_cast<const __nv_bfloat162*>(rows + (position + j - p.first_position) * p.k.row_stride);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (position + j < end) {
        const float2 two = __bfloat1622float2(x[j]);
        sum.x += two.x, sum.y += two.y;
      }
  }
  *to = sum;
}

// The blocks of each query: one thread per query, which holds its row in registers. Sums are read from shared memory,
// all threads from the same address. grid: (T / kRows, heads, B)
constexpr int kRows = 128, kStaged = 16;
template <int kD>
__global__ void __launch_bounds__(kRows) choose_blocks_kernel(const BlocksParams p) {
  __shared__ float4 staged[kStaged][kD / 4];
  const int i = blockIdx.y, b = blockIdx.z, h = p.first_head + i, first = static_cast<int>(blockIdx.x) * kRows;
  const int t = first + static_cast<int>(threadIdx.x), last = min(first + kRows, p.T) - 1;
  const int own = static_cast<int>((p.first_position + min(t, last)) / p.block);
  const int most =
      static_cast<int>((p.first_position + last) / p.block);  // no row of the thread block has more before it
  float row[kD] = {};
  load_row(row, p.q.row(b, min(t, last), h), p.D);
  TopK<kMaxRelations - 1> best(kNoSegment);
  const float* sums = p.sums + (static_cast<int64_t>(b) * p.heads + i) * p.blocks * p.D;
  for (int block0 = 0; block0 < most; block0 += kStaged) {
    __syncthreads();
    for (int at = threadIdx.x; at < kStaged * kD / 4; at += kRows) {
      const int block = at / (kD / 4), d = at % (kD / 4) * 4;
      const bool inside = block0 + block < most && d < p.D;
      staged[block][d / 4] = inside ? *reinterpret_cast<const float4*>(sums + int64_t{block0 + block} * p.D + d)
                                    : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    __syncthreads();
    for (int j = 0; j < kStaged && block0 + j < own; ++j) {
      float product = 0.0f;
#pragma unroll
      for (int d = 0; d < kD / 4; ++d) {
        const float4 x = staged[j][d];
        product += row[4 * d] * x.x + row[4 * d + 1] * x.y + row[4 * d + 2] * x.z + row[4 * d + 3] * x.w;
      }
      best.offer(product, block0 + j, p.top_k - 1);
    }
  }
  if (t > last) return;
  const int64_t at = (static_cast<int64_t>(b) * p.H + h) * p.T + t;
#pragma unroll
  for (int r = 0; r < kMaxRelations; ++r)
    if (r < p.top_k) {
      p.q_segment[r][at] = static_cast<uint16_t>(r == 0 ? own : best.id[r == 0 ? 0 : r - 1]);
      p.k_segment[r][at] = static_cast<uint16_t>(own);
    }
}

}  // namespace

void assign_blocks(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                   const PatternInput& input) {
  require_packs("assign_segments", "q", input.q);
  require_packs("assign_segments", "k", input.k);
  const int64_t B = input.q.size(0), T = input.q.size(1), H = input.q.size(2), D = input.q.size(3);
  BlocksParams p{};
  p.q = head_rows(input.q), p.k = head_rows(input.k, static_cast<int>(H / input.k.size(2)));
  p.sums = input.state.as<float>();
  for (size_t r = 0; r < static_cast<size_t>(pattern.top_k); ++r)
    p.q_segment[r] = relations[r].q_segment.as<uint16_t>(), p.k_segment[r] = relations[r].k_segment.as<uint16_t>();
  p.block = static_cast<int>(pattern.block), p.top_k = static_cast<int>(pattern.top_k);
  p.blocks = static_cast<int>(input.state.size(2) / D);
  p.T = static_cast<int>(T), p.H = static_cast<int>(H), p.D = static_cast<int>(D);
  p.first_head = static_cast<int>(input.first_head), p.heads = static_cast<int>(input.heads);
  p.first_position = input.first_position;
  const int64_t touched = (input.first_position + T - 1) / pattern.block - input.first_position / pattern.block + 1;
  const auto grid = [&](int64_t x) {
    return dim3(static_cast<unsigned>(x), static_cast<unsigned>(input.heads), static_cast<unsigned>(B));
  };
  block_sums_kernel<<<grid(touched), 64, 0, ctx.stream()>>>(p);
  check_launch("assign_segments", ctx.stream());
  const auto choose = D <= 64 ? choose_blocks_kernel<64> : choose_blocks_kernel<128>;
  choose<<<grid((T + kRows - 1) / kRows), kRows, 0, ctx.stream()>>>(p);
  check_launch("assign_segments", ctx.stream());
}

}  // namespace scfa::gpu

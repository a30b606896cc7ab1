// Attention of one query over cached keys. One block per head. The kernel is bound by memory latency, so many keys are
// in flight at once: 8 lanes form a group that processes one key at a time with an online softmax of its own; the
// groups' partial results are merged at the end in a fixed order.
#include "kernels/attention/combine.h"
#include "kernels/attention/decode.h"
#include "kernels/attention/head_rows.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 512, kMaxD = 128;
constexpr int kLanes = 8, kGroups = kThreads / kLanes;  // lanes per key, groups per block
constexpr int kPacks = kMaxD / (kLanes * kPack);        // packs (16 bytes) of a row per lane

constexpr float kLog2E = 1.442695041f;

// k_segment of each relation, as a kernel is given them.
struct KeySegments {
  const uint16_t* of_relation[kMaxRelations];
  int relations;
};

// A block for each head of queries; the first ones also copy the rows of a head of keys and values.
__global__ void __launch_bounds__(128)
    append_kernel(__nv_bfloat16* keys, __nv_bfloat16* values, uint16_t* segments, HeadRows k, HeadRows v,
                  const __grid_constant__ KeySegments k_segments, int64_t position, int64_t S, int D, int kv_heads) {
  const int64_t h = blockIdx.x, at = h * S + position;
  for (int d = threadIdx.x; h < kv_heads && d < D; d += blockDim.x) {
    keys[at * D + d] = k.row(0, 0, h)[d];
    values[at * D + d] = v.row(0, 0, h)[d];
  }
  const int r = static_cast<int>(threadIdx.x);
  if (r < k_segments.relations) segments[static_cast<int64_t>(r) * gridDim.x * S + at] = k_segments.of_relation[r][h];
}

// lse: (H), or null. accumulate: as in decode.h.
__global__ void __launch_bounds__(kThreads)
    decode_kernel(HeadRows out, float* lse, HeadRows q, const __nv_bfloat16* keys, const __nv_bfloat16* values,
                  const uint16_t* segments, const uint16_t* q_segment, int64_t first_head, int heads_per_kv_head,
                  int64_t begin, int64_t end, int64_t S, int D, float scale, bool accumulate) {
  __shared__ alignas(16) float parts[kGroups][kMaxD];
  __shared__ float tops[kGroups], sums[kGroups];
  const int lane = threadIdx.x % 32, group = threadIdx.x / kLanes, shift = lane / kLanes * kLanes;
  const int d0 = static_cast<int>(threadIdx.x % kLanes) * kPack;  // first element of the lane's first pack
  const unsigned members = ((1u << kLanes) - 1) << shift;
  const int64_t h = first_head + blockIdx.x, rows = h / heads_per_kv_head * S;  // of keys and values
  const uint16_t wanted = q_segment[h];
  const float existing_lse = accumulate ? lse[h] : INFINITY;
  float query[kPacks][kPack] = {}, result[kPacks][kPack] = {}, top = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (d0 + p * kLanes * kPack < D) load(query[p], q.row(0, 0, h) + d0 + p * kLanes * kPack);

  // A warp compares the segments of 32 keys in one ballot; each group processes the matches among its own 8.
  for (int64_t j0 = begin / kThreads * kThreads + threadIdx.x / 32 * 32; j0 < end && wanted != kNoSegment;
       j0 += kThreads) {
    const bool match = j0 + lane >= begin && j0 + lane < end && segments[h * S + j0 + lane] == wanted;
    unsigned found = __ballot_sync(0xFFFFFFFFu, match) & members;
    while (found != 0) {
      const int64_t at = (rows + j0 + __ffs(static_cast<int>(found)) - 1) * D + d0;
      found &= found - 1;
      float value[kPacks][kPack] = {}, score = 0.0f;
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (d0 + p * kLanes * kPack < D) {
          float key[kPack];
          load(key, keys + at + p * kLanes * kPack);
          load(value[p], values + at + p * kLanes * kPack);
#pragma unroll
          for (int i = 0; i < kPack; ++i) score += query[p][i] * key[i];
        }
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(members, score, offset);
      score *= scale;
      const float next = fmaxf(top, score), shrink = expf(top - next), weight = expf(score - next);
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
#pragma unroll
        for (int i = 0; i < kPack; ++i) result[p][i] = result[p][i] * shrink + weight * value[p][i];
      sum = sum * shrink + weight;
      top = next;
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) store(&parts[group][d0 + p * kLanes * kPack], result[p]);
  if (d0 == 0) tops[group] = top, sums[group] = sum;
  __syncthreads();
  const int d = threadIdx.x;
  if (d >= D) return;
  float highest = -INFINITY, total = 0.0f, element = 0.0f;
  for (int g = 0; g < kGroups; ++g) highest = fmaxf(highest, tops[g]);
  for (int g = 0; g < kGroups; ++g) {
    const float weight = sums[g] > 0.0f ? expf(tops[g] - highest) : 0.0f;  // a group may have no key
    total += sums[g] * weight;
    element += parts[g][d] * weight;
  }
  const CombineWeights weights =
      combine_weights(existing_lse, total > 0.0f ? highest * kLog2E + log2f(total) : INFINITY);
  __nv_bfloat16* to = out.row(0, 0, h) + d;
  float x = total > 0.0f ? element / total * weights.added : 0.0f;
  if (accumulate) x += __bfloat162float(*to) * weights.existing;
  *to = __float2bfloat16_rn(x);
  if (d == 0 && lse != nullptr) lse[h] = weights.lse;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void cache_append(Context& ctx, const KeyValueCache& cache, int64_t position, ConstTensor k, ConstTensor v,
                  std::span<const Segments> relations) {
  require(k.dtype == DType::kBF16, "cache_append: on the GPU k must be bf16, not ", k.describe());
  KeySegments k_segments{};
  for (const Segments& segments : relations)
    k_segments.of_relation[k_segments.relations++] = segments.k_segment.as<uint16_t>();
  append_kernel<<<static_cast<unsigned>(cache.segments.size(1)), 128, 0, ctx.stream()>>>(
      static_cast<__nv_bfloat16*>(cache.keys.data), static_cast<__nv_bfloat16*>(cache.values.data),
      cache.segments.as<uint16_t>(), head_rows(k), head_rows(v), k_segments, position, cache.keys.size(1),
      static_cast<int>(cache.keys.size(2)), static_cast<int>(cache.keys.size(0)));
  check_launch("cache_append", ctx.stream());
}

void attention_decode(Context& ctx, Tensor out, Tensor lse, ConstTensor q, const KeyValueCache& cache,
                      ConstTensor key_segment, ConstTensor q_segment, std::span<const KeyRange> by_head, float scale,
                      bool accumulate) {
  require_packs("attention_decode", "q", q);
  require_packs("attention_decode", "out", out);
  require_packs("attention_decode", "keys of the cache", cache.keys);
  require_packs("attention_decode", "values of the cache", cache.values);
  for_each_range(by_head, cache, [&](int64_t first, int64_t end, const KeyRange& range) {
    decode_kernel<<<static_cast<unsigned>(end - first), kThreads, 0, ctx.stream()>>>(
        head_rows(out), lse ? lse.as<float>() : nullptr, head_rows(q),
        static_cast<const __nv_bfloat16*>(cache.keys.data), static_cast<const __nv_bfloat16*>(cache.values.data),
        key_segment.as<uint16_t>(), q_segment.as<uint16_t>(), first, static_cast<int>(q.size(2) / cache.keys.size(0)),
        range.begin, range.end, cache.keys.size(1), static_cast<int>(q.size(3)), scale, accumulate);
    check_launch("attention_decode", ctx.stream());
  });
}

}  // namespace scfa::gpu

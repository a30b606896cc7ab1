// One stable counting sort a head, and the lists of tiles.
// A block owns a head; each of its warps walks a contiguous part of the positions, 32 at a time, twice: once to count
// rows by segment, once to place them. Ranks within the 32 come from warp votes, so the order within a segment is that
// of the positions, and what was counted on the way is a query's limit and a key's first query.
#include <algorithm>

#include "kernels/attention/segments.h"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 1024, kRows = static_cast<int>(kTileRows);
constexpr int kClasses = 20;  // of cost, by powers of two: up to 2^18 rows
constexpr unsigned kAll = 0xFFFFFFFFu;

// Warps that walk: as many as have counters for queries and keys within 64 KB of shared memory.
int walkers(int64_t count) {
  int warps = 32;
  while (warps > 1 && count * warps * 8 > 64 * 1024) warps /= 2;
  return warps;
}

struct Lists {
  const uint16_t *q_segment, *k_segment;
  int *q_begin, *k_begin, *q_index, *k_index, *k_limit, *q_first;
};

// Adds up counts[0..size) so that each entry becomes the sum of those before it, and returns the total. All threads.
__device__ int scan(int* counts, int size) {
  __shared__ int warp_totals[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (size + kThreads - 1) / kThreads, begin = min(size, static_cast<int>(threadIdx.x) * each);
  const int end = min(size, begin + each);
  int sum = 0;
  for (int i = begin; i < end; ++i) sum += counts[i];
  int inclusive = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kAll, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == 31) warp_totals[warp] = inclusive;
  __syncthreads();
  int before = inclusive - sum, total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) before += warp_totals[w];
    total += warp_totals[w];
  }
  for (int i = begin; i < end; ++i) {
    const int count = counts[i];
    counts[i] = before;
    before += count;
  }
  __syncthreads();
  return total;
}

// Lanes whose key has the segment of this lane's query, and whose query that of this lane's key.
__device__ void cross_match(int q, int k, unsigned& keys_of_query, unsigned& queries_of_key) {
  keys_of_query = queries_of_key = 0;
#pragma unroll
  for (int other = 0; other < 32; ++other) {
    if (__shfl_sync(kAll, k, other) == q) keys_of_query |= 1u << other;
    if (__shfl_sync(kAll, q, other) == k) queries_of_key |= 1u << other;
  }
}

__global__ void __launch_bounds__(kThreads, 2) sort_kernel(Lists lists, int T, int S, int warps, bool attend_self) {
  extern __shared__ int counters[];
  int *q_count = counters, *k_count = counters + S * warps;  // [segment][warp]
  const int64_t head = blockIdx.x;
  const uint16_t *q_segment = lists.q_segment + head * T, *k_segment = lists.k_segment + head * T;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < 2 * S * warps; i += kThreads) counters[i] = 0;
  __syncthreads();
  const int part = ((T + warps - 1) / warps + 31) / 32 * 32;
  const int begin = warp < warps ? min(T, warp * part) : T, end = min(T, begin + part);
  const unsigned before = (1u << lane) - 1;

  for (int t0 = begin; t0 < end; t0 += 32) {
    const int t = t0 + lane;
    const int q = t < end ? q_segment[t] : kNoSegment, k = t < end ? k_segment[t] : kNoSegment;
    const unsigned q_peers = __match_any_sync(kAll, q), k_peers = __match_any_sync(kAll, k);
    if (q < S && (q_peers & before) == 0) q_count[q * warps + warp] += __popc(q_peers);
    if (k < S && (k_peers & before) == 0) k_count[k * warps + warp] += __popc(k_peers);
    __syncwarp();
  }
  __syncthreads();
  const int queries = scan(q_count, S * warps), keys = scan(k_count, S * warps);
  for (int s = threadIdx.x; s <= S; s += kThreads) {
    lists.q_begin[head * (S + 1) + s] = s < S ? q_count[s * warps] : queries;
    lists.k_begin[head * (S + 1) + s] = s < S ? k_count[s * warps] : keys;
  }
  __syncthreads();

  // From here on a counter is where the warp's next row of the segment goes.
  const int *q_start = lists.q_begin + head * (S + 1), *k_start = lists.k_begin + head * (S + 1);
  for (int t0 = begin; t0 < end; t0 += 32) {
    const int t = t0 + lane;
    int q = t < end ? q_segment[t] : kNoSegment, k = t < end ? k_segment[t] : kNoSegment;
    if (q >= S) q = -1;
    if (k >= S) k = -2;  // never the same as that of a query in no segment
    const unsigned q_peers = __match_any_sync(kAll, q), k_peers = __match_any_sync(kAll, k);
    unsigned keys_of_query = q_peers, queries_of_key = q_peers;
    if (__any_sync(kAll, q != k)) cross_match(q, k, keys_of_query, queries_of_key);
    const unsigned up_to = attend_self ? before | 1u << lane : before;    // keys that a query here sees
    const unsigned earlier = attend_self ? before : before | 1u << lane;  // queries that do not see a key here
    if (q >= 0) {
      const int entry = q_count[q * warps + warp] + __popc(q_peers & before);
      const int64_t at = head * T + entry;
      lists.q_index[at] = t;
      lists.k_limit[at] = k_count[q * warps + warp] - k_start[q] + __popc(keys_of_query & up_to);
    }
    if (k >= 0) {
      const int entry = k_count[k * warps + warp] + __popc(k_peers & before);
      const int64_t at = head * T + entry;
      lists.k_index[at] = t;
      lists.q_first[at] = q_count[k * warps + warp] - q_start[k] + __popc(queries_of_key & earlier);
    }
    __syncwarp();
    if (q >= 0 && (q_peers & before) == 0) q_count[q * warps + warp] += __popc(q_peers);
    if (k >= 0 && (k_peers & before) == 0) k_count[k * warps + warp] += __popc(k_peers);
    __syncwarp();
  }
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

struct Entry {
  int4 tile, rows;  // as segments.h has it
};

struct TileLists {
  Entry *q_tiles, *k_tiles;
  int* tile_count;
  int* classes;  // [2][kClasses] counts, then [2][kClasses] of what was placed
};

__device__ int class_of(int cost) {
  return kClasses - 1 - min(kClasses - 1, 32 - __clz(cost));  // dearest first
}

// Calls work(list, class, tile) for the tiles of one slot of a head, at most one of each list, so that no thread has
// more to do than another however long a segment is.
template <class Work>
__device__ void for_tile(const Lists& lists, int64_t head, int64_t slot, int T, int S, const Work& work) {
  // Slot i < S is the first tile of segment i. Slot S + j stands for rows from j kRows on of the sorted list: it is
  // the tile that starts there or up to kRows - 1 rows later in the same segment, unless that is a segment's first.
#pragma unroll
  for (int list = 0; list < 2; ++list) {
    const int* starts = (list == 0 ? lists.q_begin : lists.k_begin) + head * (S + 1);
    int segment, first;
    if (slot < S) {
      segment = static_cast<int>(slot), first = 0;
    } else {
      const int row = static_cast<int>(slot - S) * kRows;
      if (row >= starts[S]) continue;
      int low = 0, high = S - 1;  // the last segment that starts at or before the row
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (starts[middle] <= row)
          low = middle;
        else
          high = middle - 1;
      }
      segment = low;
      const int tile = (row - starts[segment] + kRows - 1) / kRows;
      if (tile == 0) continue;
      first = tile * kRows;
    }
    const int rows = starts[segment + 1] - starts[segment];
    if (first >= rows) continue;
    const int used = min(kRows, rows - first);
    const int64_t at = head * T + starts[segment] + first;
    const int* others = (list == 0 ? lists.k_begin : lists.q_begin) + head * (S + 1) + segment;
    const int begin = list == 0 ? 0 : lists.q_first[at];
    const int end = list == 0 ? lists.k_limit[at + used - 1] : others[1] - others[0];
    work(list, class_of(end - begin),
         Entry{make_int4(static_cast<int>(head), segment, first, used),
               make_int4(static_cast<int>(at), static_cast<int>(head * T) + others[0], begin, end)});
  }
}

__global__ void __launch_bounds__(256) count_tiles_kernel(Lists lists, TileLists tiles, int64_t heads, int T, int S) {
  __shared__ int counts[2 * kClasses];
  for (int i = threadIdx.x; i < 2 * kClasses; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  const int64_t slots = S + T / kRows + 1, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < heads * slots)
    for_tile(lists, i / slots, i % slots, T, S,
             [&](int list, int order, const Entry&) { atomicAdd(&counts[list * kClasses + order], 1); });
  __syncthreads();
  for (int c = threadIdx.x; c < 2 * kClasses; c += blockDim.x)
    if (counts[c] > 0) atomicAdd(&tiles.classes[c], counts[c]);
}

// A block asks for room in each class once, for all its tiles: an atomic a tile would queue at a few addresses.
__global__ void __launch_bounds__(256) place_tiles_kernel(Lists lists, TileLists tiles, int64_t heads, int T, int S) {
  __shared__ int starts[2 * kClasses], counts[2 * kClasses];
  const int own = threadIdx.x;  // the class that this thread looks after, if there is one
  if (own < 2 * kClasses) starts[own] = tiles.classes[own], counts[own] = 0;
  __syncthreads();
  if (threadIdx.x < 2) {
    int sum = 0;
    for (int c = threadIdx.x * kClasses; c < static_cast<int>(threadIdx.x + 1) * kClasses; ++c) {
      const int count = starts[c];
      starts[c] = sum;
      sum += count;
    }
    if (blockIdx.x == 0) tiles.tile_count[threadIdx.x] = sum;
  }
  const int64_t slots = S + T / kRows + 1, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  Entry tile[2];
  int of_class[2] = {-1, -1}, rank[2];
  if (i < heads * slots)
    for_tile(lists, i / slots, i % slots, T, S, [&](int list, int order, const Entry& found) {
      tile[list] = found;
      of_class[list] = list * kClasses + order;
      rank[list] = atomicAdd(&counts[of_class[list]], 1);
    });
  __syncthreads();
  if (own < 2 * kClasses && counts[own] > 0) starts[own] += atomicAdd(&tiles.classes[2 * kClasses + own], counts[own]);
  __syncthreads();
#pragma unroll
  for (int list = 0; list < 2; ++list)
    if (of_class[list] >= 0)
      (list == 0 ? tiles.q_tiles : tiles.k_tiles)[starts[of_class[list]] + rank[list]] = tile[list];
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void build_segments(Context& ctx, const Segments& s, bool attend_self) {
  constexpr const char* kOp = "build_segments";
  const int64_t heads = s.q_segment.size(0) * s.q_segment.size(1);
  const int T = static_cast<int>(s.q_segment.size(2)), S = static_cast<int>(s.count());
  const Lists lists{s.q_segment.as<uint16_t>(), s.k_segment.as<uint16_t>(), s.q_begin.as<int32_t>(),
                    s.k_begin.as<int32_t>(),    s.q_index.as<int32_t>(),    s.k_index.as<int32_t>(),
                    s.k_limit.as<int32_t>(),    s.q_first.as<int32_t>()};
  const int warps = walkers(S), shared_bytes = S * warps * 8;
  if (cudaFuncSetAttribute(sort_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) != cudaSuccess)
    fail(kOp, ": ", S, " segments need ", shared_bytes, " bytes of shared memory");
  sort_kernel<<<static_cast<unsigned>(heads), kThreads, static_cast<size_t>(shared_bytes), ctx.stream()>>>(
      lists, T, S, warps, attend_self);
  check_launch(kOp, ctx.stream());
  const TileLists tiles{static_cast<Entry*>(s.q_tiles.data), static_cast<Entry*>(s.k_tiles.data),
                        s.tile_count.as<int32_t>(), static_cast<int*>(ctx.workspace())};
  fill(tiles.classes, 0, 4 * kClasses * sizeof(int), ctx.stream());
  const auto blocks = static_cast<unsigned>((heads * (S + T / kRows + 1) + 255) / 256);
  count_tiles_kernel<<<blocks, 256, 0, ctx.stream()>>>(lists, tiles, heads, T, S);
  check_launch(kOp, ctx.stream());
  place_tiles_kernel<<<blocks, 256, 0, ctx.stream()>>>(lists, tiles, heads, T, S);
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

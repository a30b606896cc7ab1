// One stable counting sort a head, and the lists of tiles.
// A block owns a head; each of its warps walks a contiguous part of the positions, 32 at a time, twice: once to count
// rows by segment, once to place them. Ranks within the 32 come from warp votes, so the order within a segment is that
// of the positions, and what was counted on the way is a query's limit and a key's first query. Where queries and keys
// are in the same segments, one list is enough: it is sorted in shared memory and written in order.
#include <algorithm>
#include <bit>
#include <climits>

#include "core/gpu.h"
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

// Of numbers below 2^bits, one a lane: which lanes have this lane's `mine`, and which have its `other`.
__device__ void match(int number, int mine, int other, int bits, unsigned& of_mine, unsigned& of_other) {
  of_mine = of_other = kAll;
  for (int b = 0; b < bits; ++b) {
    const unsigned set = __ballot_sync(kAll, number >> b & 1);
    of_mine &= mine >> b & 1 ? set : ~set;
    of_other &= other >> b & 1 ? set : ~set;
  }
}

// The segments of a head's rows; S for none.
struct Ids {
  const uint16_t* id;
  int T, S;
  __device__ int at(int t) const { return t < T ? min(static_cast<int>(id[t]), S) : S; }
};

// Calls work(position, query's segment, key's) for each lane's position of a warp's part, 32 by 32; four times as many
// are on their way.
template <class Work>
__device__ void walk(const Ids& q, const Ids& k, int begin, int end, const Work& work) {
  constexpr int kAhead = 4;
  const int lane = threadIdx.x % 32;
  for (int t0 = begin; t0 < end; t0 += 32 * kAhead) {
    int query[kAhead], key[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int t = t0 + 32 * i + lane;
      query[i] = t < end ? q.at(t) : q.S, key[i] = t < end ? k.at(t) : k.S;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (t0 + 32 * i < end) work(t0 + 32 * i + lane, query[i], key[i]);
  }
}

// counters: [segment][warp] of queries, then of keys; then S + 1 starts; then, where kStaged, a position an entry.
template <bool kStaged>
__global__ void __launch_bounds__(kThreads, 2)
    sort_kernel(Lists lists, int T, int S, int bits, int warps, bool attend_self) {
  extern __shared__ int counters[];
  __shared__ int differ;
  int *q_count = counters, *k_count = counters + S * warps;
  const int64_t head = blockIdx.x;
  const Ids q_ids{lists.q_segment + head * T, T, S}, k_ids{lists.k_segment + head * T, T, S};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < 2 * S * warps; i += kThreads) counters[i] = 0;
  if (threadIdx.x == 0) differ = 0;
  __syncthreads();
  if (kStaged) {
    bool different = false;
    for (int t = threadIdx.x; t < T; t += kThreads) different |= q_ids.at(t) != k_ids.at(t);
    if (__any_sync(kAll, different) && lane == 0) differ = 1;
    __syncthreads();
  }
  const bool same = kStaged && differ == 0;
  const int part = ((T + warps - 1) / warps + 31) / 32 * 32;
  const int begin = warp < warps ? min(T, warp * part) : T, end = min(T, begin + part);
  const unsigned before = (1u << lane) - 1;
  const auto count = [&](int* counts, const Ids& ids) {
    walk(ids, ids, begin, end, [&](int, int id, int) {
      unsigned peers, unused;
      match(id, id, id, bits, peers, unused);
      if (id < S && (peers & before) == 0) counts[id * warps + warp] += __popc(peers);
      __syncwarp();
    });
  };
  count(q_count, q_ids);
  if (!same) count(k_count, k_ids);
  __syncthreads();
  const int queries = scan(q_count, S * warps), keys = same ? queries : scan(k_count, S * warps);
  if (same) k_count = q_count;
  int* q_begin = lists.q_begin + head * (S + 1);
  int* k_begin = lists.k_begin + head * (S + 1);
  int* starts = counters + 2 * S * warps;
  for (int s = threadIdx.x; s <= S; s += kThreads) {
    q_begin[s] = starts[s] = s < S ? q_count[s * warps] : queries;
    k_begin[s] = s < S ? k_count[s * warps] : keys;
  }
  __syncthreads();

  // From here on a counter is where the warp's next row of the segment goes.
  const int64_t list = head * T;
  if (same) {
    auto* position = reinterpret_cast<uint16_t*>(starts + S + 1);
    walk(q_ids, q_ids, begin, end, [&](int t, int id, int) {
      unsigned peers, unused;
      match(id, id, id, bits, peers, unused);
      if (id < S) position[q_count[id * warps + warp] + __popc(peers & before)] = static_cast<uint16_t>(t);
      __syncwarp();
      if (id < S && (peers & before) == 0) q_count[id * warps + warp] += __popc(peers);
      __syncwarp();
    });
    __syncthreads();
    for (int i = threadIdx.x; i < queries; i += kThreads) {
      int low = 0, high = S - 1;  // the segment of entry i: the last that starts at or before it
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (starts[middle] <= i)
          low = middle;
        else
          high = middle - 1;
      }
      const int rank = i - starts[low];
      lists.q_index[list + i] = lists.k_index[list + i] = position[i];
      lists.k_limit[list + i] = attend_self ? rank + 1 : rank;
      lists.q_first[list + i] = attend_self ? rank : rank + 1;
    }
    return;
  }
  walk(q_ids, k_ids, begin, end, [&](int t, int q, int k) {
    unsigned q_peers, k_peers, keys_of_query, queries_of_key;
    match(q, q, k, bits, q_peers, queries_of_key);
    match(k, k, q, bits, k_peers, keys_of_query);
    const unsigned up_to = attend_self ? before | 1u << lane : before;    // keys that a query here sees
    const unsigned earlier = attend_self ? before : before | 1u << lane;  // queries that do not see a key here
    if (q < S) {
      const int64_t at = list + q_count[q * warps + warp] + __popc(q_peers & before);
      lists.q_index[at] = t;
      lists.k_limit[at] = k_count[q * warps + warp] - k_begin[q] + __popc(keys_of_query & up_to);
    }
    if (k < S) {
      const int64_t at = list + k_count[k * warps + warp] + __popc(k_peers & before);
      lists.k_index[at] = t;
      lists.q_first[at] = q_count[k * warps + warp] - q_begin[k] + __popc(queries_of_key & earlier);
    }
    __syncwarp();
    if (q < S && (q_peers & before) == 0) q_count[q * warps + warp] += __popc(q_peers);
    if (k < S && (k_peers & before) == 0) k_count[k * warps + warp] += __popc(k_peers);
    __syncwarp();
  });
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

struct Entry {
  int4 tile, rows, order;  // as segments.h has it
};
static_assert(sizeof(Entry) == kTileEntry * sizeof(int32_t));

constexpr int kLists = 5;                       // the first of TileCount
constexpr int kOrders = kLists * 2 * kClasses;  // of a list: classes of long segments, then of short ones

// Entries, and in the upper half blocks of queries that those of keys stand for: one atomic counts both, so that both
// are in one order.
using Count = unsigned long long;  // as atomicAdd has it
__device__ Count count_of(int entries, int blocks) {
  return static_cast<Count>(blocks) << 32 | static_cast<unsigned>(entries);
}

struct TileLists {
  Entry* entries[kLists];
  int* tile_count;
  Count* counts;  // [kOrders] of what there is, then [kOrders] of what was placed
};

__host__ __device__ int slots_of(int T, int S) {
  return S + T / kRows + 1;
}

__device__ int class_of(int cost) {
  return kClasses - 1 - min(kClasses - 1, 32 - __clz(cost));  // dearest first
}

__device__ constexpr bool is_of_keys(int list) {
  return list == kKeyTiles || list == kWideKeyTiles;
}
__device__ constexpr int rows_of_tile(int list) {
  return static_cast<int>(list == kWideQueryTiles || list == kWideKeyTiles ? kWideTileRows : kTileRows);
}
__device__ int tiles_of(int rows, int tile_rows) {
  return max((rows + tile_rows - 1) / tile_rows, 1);
}

// Calls work(list, order, entry, count) for what one slot of a head stands for, at most once for each list. order:
// where in the list it belongs, to a power of two of its cost. Tiles of keys are placed segment by segment: the entry
// is then of all of them.
template <class Work>
__device__ void for_slot(const Lists& lists, int64_t head, int slot, int T, int S, const Work& work) {
  // Slot i < S is segment i, and its first tile. Slot S + j stands for rows from j times the list's tiles on of the
  // sorted list: it is the tile that starts there or later in the same segment, unless that is a segment's first. So no
  // thread has more to do than another however long a segment is.
  const int64_t list_begin = head * T;
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    const bool of_keys = is_of_keys(list);
    const int* starts = (of_keys ? lists.k_begin : lists.q_begin) + head * (S + 1);
    const int* others = (of_keys ? lists.q_begin : lists.k_begin) + head * (S + 1);
    const int tile_rows = rows_of_tile(list);
    int segment, first;
    if (slot < S) {
      segment = slot, first = 0;
    } else {
      const int64_t row = int64_t{slot - S} * tile_rows;
      if (of_keys || list == kShortSegments || row >= starts[S]) continue;
      int low = 0, high = S - 1;  // the last segment that starts at or before the row
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (starts[middle] <= row)
          low = middle;
        else
          high = middle - 1;
      }
      segment = low;
      const int tile = (static_cast<int>(row) - starts[segment] + tile_rows - 1) / tile_rows;
      if (tile == 0) continue;
      first = tile * tile_rows;
    }
    const int rows = starts[segment + 1] - starts[segment], there = others[segment + 1] - others[segment];
    const bool is_short = max(rows, there) <= kShortRows;
    const int64_t own = list_begin + starts[segment] + first, other = list_begin + others[segment];
    const int part = is_short ? kClasses : 0;
    const int4 where = make_int4(static_cast<int>(own), static_cast<int>(other), 0, there),
               none = make_int4(0, 0, 0, 0);
    if (of_keys) {
      if (rows + there > 0)
        work(list, part + class_of(there), Entry{make_int4(static_cast<int>(head), segment, 0, rows), where, none},
             count_of(tiles_of(rows, tile_rows), (there + kQueryBlock - 1) / kQueryBlock));
    } else if (list == kShortSegments) {
      if (is_short && rows + there > 0)
        work(list, class_of(rows + there),
             Entry{make_int4(static_cast<int>(head), segment, rows, there), make_int4(where.x, where.y, 0, 0), none},
             count_of(1, 0));
    } else if (first < rows) {
      const int used = min(tile_rows, rows - first), end = lists.k_limit[own + used - 1];
      work(list, part + class_of(end),
           Entry{make_int4(static_cast<int>(head), segment, first, used), make_int4(where.x, where.y, 0, end), none},
           count_of(1, 0));
    }
  }
}

// grid: (heads, slots of a head / 256)
__global__ void __launch_bounds__(256) count_tiles_kernel(Lists lists, TileLists tiles, int T, int S) {
  __shared__ Count counts[kOrders];
  for (int i = threadIdx.x; i < kOrders; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (slot < slots_of(T, S))
    for_slot(lists, blockIdx.x, slot, T, S, [&](int list, int order, const Entry&, Count count) {
      atomicAdd(&counts[list * 2 * kClasses + order], count);
    });
  __syncthreads();
  for (int c = threadIdx.x; c < kOrders; c += blockDim.x)
    if (counts[c] > 0) atomicAdd(&tiles.counts[c], counts[c]);
}

// Writes every `step`th tile of a segment's keys from tile `from` on; the last one is the first of the list.
__device__ void place_keys(const Lists& lists, Entry* to, const Entry& segment, int tile_rows, int from, int step) {
  const int keys = segment.tile.w, tiles = tiles_of(keys, tile_rows);
  for (int tile = from; tile < tiles; tile += step) {
    const int first = tile * tile_rows, own = segment.rows.x + first;
    Entry entry = segment;
    entry.tile.z = first, entry.tile.w = min(tile_rows, keys - first), entry.rows.x = own;
    // The first tile also looks after queries that see no key.
    entry.rows.z = tile == 0 ? 0 : lists.q_first[own];
    entry.order.x = tile + 1 < tiles ? lists.q_first[own + tile_rows] : INT_MAX;
    to[tiles - 1 - tile] = entry;
  }
}

// A block asks for room in each order once, for all it places: an atomic an entry would queue at a few addresses.
__global__ void __launch_bounds__(256) place_tiles_kernel(Lists lists, TileLists tiles, int T, int S) {
  __shared__ Count starts[kOrders], counts[kOrders];
  static_assert(kOrders <= 256);
  const int own = threadIdx.x;  // the order that this thread looks after, if there is one
  if (own < kOrders) starts[own] = tiles.counts[own], counts[own] = 0;
  __syncthreads();
  if (threadIdx.x < kLists) {
    const int list = threadIdx.x;
    Count sum = 0, of_long = 0;
    for (int c = 0; c < 2 * kClasses; ++c) {
      if (c == kClasses) of_long = sum;
      const Count count = starts[list * 2 * kClasses + c];
      starts[list * 2 * kClasses + c] = sum;
      sum += count;
    }
    if (blockIdx.x == 0 && blockIdx.y == 0) {
      tiles.tile_count[list] = static_cast<int>(sum);
      if (list < kShortSegments) tiles.tile_count[kLongQueryTiles + list] = static_cast<int>(of_long);
    }
  }
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  Entry entry[kLists];
  int order_of[kLists];
  Count rank[kLists];
#pragma unroll
  for (int list = 0; list < kLists; ++list) order_of[list] = -1;
  if (slot < slots_of(T, S))
    for_slot(lists, blockIdx.x, slot, T, S, [&](int list, int order, const Entry& found, Count count) {
      entry[list] = found;
      order_of[list] = list * 2 * kClasses + order;
      rank[list] = atomicAdd(&counts[order_of[list]], count);
    });
  __syncthreads();
  if (own < kOrders && counts[own] > 0) starts[own] += atomicAdd(&tiles.counts[kOrders + own], counts[own]);
  __syncthreads();
  constexpr int kFew = 8;  // tiles that a thread writes alone; more are for the warp
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    const bool placed = order_of[list] >= 0;
    const Count at = placed ? starts[order_of[list]] + rank[list] : 0;
    Entry* to = tiles.entries[list] + static_cast<unsigned>(at);
    if (!is_of_keys(list)) {
      if (placed) *to = entry[list];
      continue;
    }
    const int tile_rows = rows_of_tile(list);
    Entry segment = placed ? entry[list] : Entry{};
    segment.order.y = static_cast<int>(at >> 32);
    const int count = placed ? tiles_of(segment.tile.w, tile_rows) : 0;
    if (count > 0 && count <= kFew) place_keys(lists, to, segment, tile_rows, 0, 1);
    for (unsigned many = __ballot_sync(kAll, count > kFew); many != 0; many &= many - 1) {
      const int lane = __ffs(static_cast<int>(many)) - 1;
      const auto from = [&](int x) { return __shfl_sync(kAll, x, lane); };
      const Entry theirs{make_int4(from(segment.tile.x), from(segment.tile.y), 0, from(segment.tile.w)),
                         make_int4(from(segment.rows.x), from(segment.rows.y), 0, from(segment.rows.w)),
                         make_int4(0, from(segment.order.y), 0, 0)};
      Entry* there = tiles.entries[list] + from(static_cast<int>(at));
      place_keys(lists, there, theirs, tile_rows, static_cast<int>(threadIdx.x) % 32, 32);
    }
  }
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
  const int warps = walkers(S), bits = std::bit_width(static_cast<unsigned>(S));
  int shared_bytes = S * warps * 8 + (S + 1) * 4;
  const bool staged = T <= 65536 && shared_bytes + 2 * T + 1024 <= properties().shared_memory;
  if (staged) shared_bytes += 2 * T;
  const auto kernel = staged ? sort_kernel<true> : sort_kernel<false>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) != cudaSuccess)
    fail(kOp, ": ", S, " segments need ", shared_bytes, " bytes of shared memory");
  kernel<<<static_cast<unsigned>(heads), kThreads, static_cast<size_t>(shared_bytes), ctx.stream()>>>(
      lists, T, S, bits, warps, attend_self);
  check_launch(kOp, ctx.stream());
  const TileLists tiles{{static_cast<Entry*>(s.q_tiles.data), static_cast<Entry*>(s.k_tiles.data),
                         static_cast<Entry*>(s.q_wide_tiles.data), static_cast<Entry*>(s.k_wide_tiles.data),
                         static_cast<Entry*>(s.short_segments.data)},
                        s.tile_count.as<int32_t>(),
                        static_cast<Count*>(ctx.workspace())};
  fill(tiles.counts, 0, 2 * kOrders * sizeof(Count), ctx.stream());
  const dim3 blocks(static_cast<unsigned>(heads), static_cast<unsigned>((slots_of(T, S) + 255) / 256));
  count_tiles_kernel<<<blocks, 256, 0, ctx.stream()>>>(lists, tiles, T, S);
  check_launch(kOp, ctx.stream());
  place_tiles_kernel<<<blocks, 256, 0, ctx.stream()>>>(lists, tiles, T, S);
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

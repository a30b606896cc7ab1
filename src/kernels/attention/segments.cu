// One stable counting sort per head, and the lists of tiles.
// A block owns a head. Where queries and keys are in the same segments, one list is enough: each thread walks a
// contiguous part of the positions twice, once to count rows by segment, with counters of its own, and once to place
// them, in shared memory, from where they are written in order. Otherwise, or where there are many segments, warps
// walk, 32 positions at a time. Ranks within the 32 come from warp votes, so the order within a segment is that of the
// positions, and what was counted on the way is num_visible_keys of a query and first_query of a key.
#include <algorithm>
#include <bit>
#include <climits>

#include "core/gpu.h"
#include "kernels/attention/segments.h"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 1024, kRows = static_cast<int>(kTileRows);
constexpr int kCostBins = 20;  // by powers of two: up to 2^18 rows
constexpr unsigned kAll = 0xFFFFFFFFu;

// Warps that walk: as many as have counters for queries and keys within 64 KB of shared memory.
int walkers(int64_t count) {
  int warps = 32;
  while (warps > 1 && count * warps * 8 > 64 * 1024) warps /= 2;
  return warps;
}

struct Lists {
  const uint16_t *q_segment, *k_segment;
  int *q_begin, *k_begin, *q_index, *k_index, *num_visible_keys, *first_query;
};

// The sum of the threads before, and of all of them. By all threads.
__device__ int sum_before(int sum, int& total) {
  __shared__ int warp_totals[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int inclusive = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kAll, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == 31) warp_totals[warp] = inclusive;
  __syncthreads();
  int of_warp = warp_totals[lane];
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(kAll, of_warp, offset);
    if (lane >= offset) of_warp += other;
  }
  total = __shfl_sync(kAll, of_warp, 31);
  const int before = __shfl_sync(kAll, of_warp, max(warp - 1, 0));
  __syncthreads();  // the totals may be written again
  return (warp > 0 ? before : 0) + inclusive - sum;
}

// Adds up counts[0..size) so that each entry becomes the sum of those before it, and returns the total. All threads.
__device__ int scan(int* counts, int size) {
  const int each = (size + kThreads - 1) / kThreads, begin = min(size, static_cast<int>(threadIdx.x) * each);
  const int end = min(size, begin + each);
  int sum = 0, total = 0;
  for (int i = begin; i < end; ++i) sum += counts[i];
  int before = sum_before(sum, total);
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

// Of S segments, that of a row of the sorted list: the last that starts at or before it.
__device__ int segment_at(const int* starts, int S, int64_t row) {
  int low = 0, high = S - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (starts[middle] <= row)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// The sort by threads. What it has in shared memory: counters [segment][thread]; starts, S + 1 of them; a position an
// entry, of which there are T.
struct Tallies {
  static constexpr int kMost = 32768;
  int threads = kThreads, bytes, starts_bytes;
  __host__ __device__ explicit Tallies(int S) {
    while (threads > 8 && threads * S > kMost) threads /= 2;
    bytes = 2 * threads * S, starts_bytes = (S + 1 + 3) / 4 * 16;
  }
  // Few segments: otherwise there would be few threads.
  static bool suit(int S) { return S <= 512; }
  int shared_bytes(int T) const { return bytes + starts_bytes + (T + 7) / 8 * 16; }
};

__device__ void sort_by_threads(const Lists& lists, unsigned char* shared, int64_t head, int T, int S,
                                bool attend_self) {
  const Tallies plan(S);
  auto* tallies = reinterpret_cast<uint16_t*>(shared);
  auto* starts = reinterpret_cast<int*>(shared + plan.bytes);
  auto* position = reinterpret_cast<uint16_t*>(shared + plan.bytes + plan.starts_bytes);
  const int own = threadIdx.x, eights = plan.threads * S / 8;
  auto* tallies8 = reinterpret_cast<uint4*>(tallies);
  for (int i = own; i < eights; i += kThreads) tallies8[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  const int64_t list = head * T;
  const uint16_t* ids = lists.q_segment + list;
  const int each = ((T + plan.threads - 1) / plan.threads + 7) / 8 * 8;
  const int begin = own < plan.threads ? min(T, own * each) : T, end = min(T, begin + each);
  // Calls work(position, counter) for each of the thread's positions that is in a segment.
  const auto walk_part = [&](const auto& work) {
    for (int t = begin; t < end; t += 8) {
      int id[8];
      if (T % 8 == 0) {
        const uint4 eight = *reinterpret_cast<const uint4*>(ids + t);
        const uint32_t two[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int j = 0; j < 8; ++j) id[j] = static_cast<int>(two[j / 2] >> 16 * (j % 2) & 0xFFFF);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) id[j] = t + j < end ? ids[t + j] : S;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (id[j] < S) work(t + j, tallies[id[j] * plan.threads + own]);
    }
  };
  walk_part([](int, uint16_t& tally) { ++tally; });
  __syncthreads();
  {
    const int each8 = (eights + kThreads - 1) / kThreads, first = min(eights, own * each8);
    const int last = min(eights, first + each8);
    int sum = 0, total = 0;
    for (int i = first; i < last; ++i) {
      const uint4 x = tallies8[i];
      for (const uint32_t two : {x.x, x.y, x.z, x.w}) sum += static_cast<int>((two & 0xFFFF) + (two >> 16));
    }
    int before = sum_before(sum, total);
    for (int i = first; i < last; ++i) {
      if (i * 8 % plan.threads == 0) starts[i * 8 / plan.threads] = before;
      uint4 x = tallies8[i];
      for (uint32_t* two : {&x.x, &x.y, &x.z, &x.w}) {
        const int low = static_cast<int>(*two & 0xFFFF), high = static_cast<int>(*two >> 16);
        *two = static_cast<uint32_t>(before & 0xFFFF) | static_cast<uint32_t>(before + low) << 16;
        before += low + high;
      }
      tallies8[i] = x;
    }
    if (own == 0) starts[S] = total;
  }
  __syncthreads();
  walk_part([&](int t, uint16_t& tally) { position[tally++] = static_cast<uint16_t>(t); });
  for (int s = own; s <= S; s += kThreads)
    lists.q_begin[head * (S + 1) + s] = lists.k_begin[head * (S + 1) + s] = starts[s];
  __syncthreads();
  const int rows = starts[S];
  for (int i = 4 * own; i < rows; i += 4 * kThreads) {
    int low = segment_at(starts, S, i);
    const uint2 four = *reinterpret_cast<const uint2*>(position + i);
    const int index[4] = {static_cast<int>(four.x & 0xFFFF), static_cast<int>(four.x >> 16),
                          static_cast<int>(four.y & 0xFFFF), static_cast<int>(four.y >> 16)};
    int rank[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      while (low + 1 < S && starts[low + 1] <= i + j) ++low;
      rank[j] = i + j - starts[low];
    }
    const int more = attend_self ? 1 : 0, fewer = attend_self ? 0 : 1;
    if (T % 4 == 0 && i + 4 <= rows) {
      const auto store = [&](int* to, const int(&x)[4], int plus) {
        *reinterpret_cast<int4*>(to + list + i) = make_int4(x[0] + plus, x[1] + plus, x[2] + plus, x[3] + plus);
      };
      store(lists.q_index, index, 0), store(lists.k_index, index, 0);
      store(lists.num_visible_keys, rank, more), store(lists.first_query, rank, fewer);
    } else {
      for (int j = 0; j < 4 && i + j < rows; ++j) {
        lists.q_index[list + i + j] = lists.k_index[list + i + j] = index[j];
        lists.num_visible_keys[list + i + j] = rank[j] + more;
        lists.first_query[list + i + j] = rank[j] + fewer;
      }
    }
  }
}

// by_threads: where it can be, there is room for the sort by threads. Otherwise counters: [segment][warp] of queries,
// then of keys.
__global__ void __launch_bounds__(kThreads, 2)
    sort_kernel(Lists lists, int T, int S, int bits, int warps, bool by_threads, bool attend_self) {
  extern __shared__ uint4 shared[];
  const int64_t head = blockIdx.x;
  const Ids q_ids{lists.q_segment + head * T, T, S}, k_ids{lists.k_segment + head * T, T, S};
  if (by_threads) {
    bool differ = false;
    if (T % 8 == 0) {
      const auto *q = reinterpret_cast<const uint4*>(q_ids.id), *k = reinterpret_cast<const uint4*>(k_ids.id);
      for (int i = threadIdx.x; i < T / 8; i += kThreads)
        differ |= q[i].x != k[i].x || q[i].y != k[i].y || q[i].z != k[i].z || q[i].w != k[i].w;
    } else {
      for (int t = threadIdx.x; t < T; t += kThreads) differ |= q_ids.id[t] != k_ids.id[t];
    }
    if (__syncthreads_or(static_cast<int>(differ)) == 0) {
      sort_by_threads(lists, reinterpret_cast<unsigned char*>(shared), head, T, S, attend_self);
      return;
    }
  }
  auto* counters = reinterpret_cast<int*>(shared);
  int *q_count = counters, *k_count = counters + S * warps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < 2 * S * warps; i += kThreads) counters[i] = 0;
  __syncthreads();
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
  count(k_count, k_ids);
  __syncthreads();
  const int queries = scan(q_count, S * warps), keys = scan(k_count, S * warps);
  int* q_begin = lists.q_begin + head * (S + 1);
  int* k_begin = lists.k_begin + head * (S + 1);
  for (int s = threadIdx.x; s <= S; s += kThreads) {
    q_begin[s] = s < S ? q_count[s * warps] : queries;
    k_begin[s] = s < S ? k_count[s * warps] : keys;
  }
  __syncthreads();

  // From here on a counter is where the warp's next row of the segment goes.
  const int64_t list = head * T;
  walk(q_ids, k_ids, begin, end, [&](int t, int q, int k) {
    unsigned q_peers, k_peers, keys_of_query, queries_of_key;
    match(q, q, k, bits, q_peers, queries_of_key);
    match(k, k, q, bits, k_peers, keys_of_query);
    const unsigned up_to = attend_self ? before | 1u << lane : before;    // keys that a query here sees
    const unsigned earlier = attend_self ? before : before | 1u << lane;  // queries that do not see a key here
    if (q < S) {
      const int64_t at = list + q_count[q * warps + warp] + __popc(q_peers & before);
      lists.q_index[at] = t;
      lists.num_visible_keys[at] = k_count[q * warps + warp] - k_begin[q] + __popc(keys_of_query & up_to);
    }
    if (k < S) {
      const int64_t at = list + k_count[k * warps + warp] + __popc(k_peers & before);
      lists.k_index[at] = t;
      lists.first_query[at] = q_count[k * warps + warp] - q_begin[k] + __popc(queries_of_key & earlier);
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

constexpr int kLists = 5;                        // the first of TileCount
constexpr int kOrders = kLists * 2 * kCostBins;  // per list: bins of multi-block segments, then of single-block ones

// Entries, and in the upper half blocks of queries that those of keys stand for: one atomic counts both, so that both
// are in one order.
using Count = unsigned long long;  // as atomicAdd has it
__device__ Count count_of(int entries, int blocks) {
  return static_cast<Count>(blocks) << 32 | static_cast<unsigned>(entries);
}

// atomicAdd to a counter in shared memory, once for all lanes of a warp that are here with the same order: of 64 bits
// it is a loop, which many threads would go round long.
__device__ Count add(Count* counters, int order, Count count) {
  const unsigned peers = __match_any_sync(__activemask(), order);
  const int lane = threadIdx.x % 32, leader = __ffs(static_cast<int>(peers)) - 1;
  Count before = 0, sum = 0;
  for (unsigned rest = peers; rest != 0; rest &= rest - 1) {
    const int other = __ffs(static_cast<int>(rest)) - 1;
    const Count theirs = __shfl_sync(peers, count, other);
    sum += theirs;
    if (other < lane) before += theirs;
  }
  Count start = 0;
  if (lane == leader) start = atomicAdd(&counters[order], sum);
  return __shfl_sync(peers, start, leader) + before;
}

struct TileLists {
  Entry* entries[kLists];
  int* tile_count;
  int single_block_max_rows, l2_group_max_rows;
  // [kOrders] of what there is, then [kOrders] of what was placed, then one: untied heads.
  Count* counts;
};
constexpr int kCounts = 2 * kOrders + 1;

__host__ __device__ int slots_of(int T, int S) {
  return S + T / kRows + 1;
}

__device__ int cost_bin_of(int cost) {
  return kCostBins - 1 - min(kCostBins - 1, 32 - __clz(cost));  // the most expensive first
}

__device__ constexpr bool is_of_keys(int list) {
  return list == kKeyTiles || list == kWideKeyTiles;
}
__device__ constexpr int rows_of_tile(int list) {
  return static_cast<int>(list == kWideQueryTiles || list == kWideKeyTiles ? kWideTileRows : kTileRows);
}
// Where a head's segments start in the sorted lists, in shared memory. By all threads of a block.
struct Starts {
  const int *q, *k;  // S + 1 each
  __device__ Starts(int* shared, const Lists& lists, int64_t head, int S) : q(shared), k(shared + S + 1) {
    for (int s = threadIdx.x; s <= S; s += blockDim.x) {
      shared[s] = lists.q_begin[head * (S + 1) + s];
      shared[S + 1 + s] = lists.k_begin[head * (S + 1) + s];
    }
    __syncthreads();
  }
};

__device__ int tiles_of(int rows, int tile_rows) {
  return max((rows + tile_rows - 1) / tile_rows, 1);
}

// Calls work(list, order, entry, count) for what one slot of a head stands for, at most once for each list. order:
// where in the list it belongs, to a power of two of its cost. Tiles of keys are placed segment by segment: the entry
// is then of all of them.
template <class Work>
__device__ void for_slot(const Lists& lists, const Starts& of, const TileLists& tiles, int64_t head, int slot, int T,
                         int S, const Work& work) {
  // Slot i < S is segment i, and its first tile. Slot S + j stands for rows from j times the list's tiles on of the
  // sorted list: it is the tile that starts there or later in the same segment, unless that is a segment's first.
  // So no thread has more to do than another however long a segment is.
  const int64_t list_begin = head * T;
#pragma unroll
  for (int list = 0; list < kLists; ++list) {
    const bool of_keys = is_of_keys(list);
    const int *starts = of_keys ? of.k : of.q, *inner_starts = of_keys ? of.q : of.k;
    const int tile_rows = rows_of_tile(list);
    int segment, first;
    if (slot < S) {
      segment = slot, first = 0;
    } else {
      const int64_t row = int64_t{slot - S} * tile_rows;
      if (of_keys || list == kSingleBlockSegments || row >= starts[S]) continue;
      segment = segment_at(starts, S, row);
      const int tile = (static_cast<int>(row) - starts[segment] + tile_rows - 1) / tile_rows;
      if (tile == 0) continue;
      first = tile * tile_rows;
    }
    const int rows = starts[segment + 1] - starts[segment],
              inner_rows = inner_starts[segment + 1] - inner_starts[segment];
    const bool is_single_block = max(rows, inner_rows) <= tiles.single_block_max_rows;
    const int64_t outer = list_begin + starts[segment] + first, inner = list_begin + inner_starts[segment];
    const int part = is_single_block ? kCostBins : 0;
    const int4 where = make_int4(static_cast<int>(outer), static_cast<int>(inner), 0, inner_rows),
               none = make_int4(0, 0, 0, 0);
    if (of_keys) {
      if (rows + inner_rows > 0)
        work(list, part + cost_bin_of(inner_rows),
             Entry{make_int4(static_cast<int>(head), segment, 0, rows), where, none},
             count_of(tiles_of(rows, tile_rows), (inner_rows + kQueryBlock - 1) / kQueryBlock));
    } else if (list == kSingleBlockSegments) {
      if (is_single_block && rows + inner_rows > 0)
        work(list, cost_bin_of(rows + inner_rows),
             Entry{make_int4(static_cast<int>(head), segment, rows, inner_rows), make_int4(where.x, where.y, 0, 0),
                   none},
             count_of(1, 0));
    } else if (first < rows) {
      const int used = min(tile_rows, rows - first), end = lists.num_visible_keys[outer + used - 1];
      work(list, part + cost_bin_of(max(rows, inner_rows) <= tiles.l2_group_max_rows ? inner_rows : end),
           Entry{make_int4(static_cast<int>(head), segment, first, used), make_int4(where.x, where.y, 0, end), none},
           count_of(1, 0));
    }
  }
}

// Whether some row of a head is in different segments as query and as key. By all threads of a block.
__device__ bool is_untied(const Lists& lists, int64_t head, int T) {
  const uint16_t *q = lists.q_segment + head * T, *k = lists.k_segment + head * T;
  bool differ = false;
  if (T % 8 == 0) {
    const auto *q8 = reinterpret_cast<const uint4*>(q), *k8 = reinterpret_cast<const uint4*>(k);
    for (int i = threadIdx.x; i < T / 8; i += blockDim.x)
      differ |= q8[i].x != k8[i].x || q8[i].y != k8[i].y || q8[i].z != k8[i].z || q8[i].w != k8[i].w;
  } else {
    for (int t = threadIdx.x; t < T; t += blockDim.x) differ |= q[t] != k[t];
  }
  return __syncthreads_or(static_cast<int>(differ)) != 0;
}

// grid: (heads, slots of a head / 256)
__global__ void __launch_bounds__(256) count_tiles_kernel(Lists lists, TileLists tiles, int T, int S) {
  extern __shared__ int starts_of_head[];
  __shared__ Count counts[kOrders];
  for (int i = threadIdx.x; i < kOrders; i += blockDim.x) counts[i] = 0;
  const Starts of(starts_of_head, lists, blockIdx.x, S);
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  if (slot < slots_of(T, S))
    for_slot(lists, of, tiles, blockIdx.x, slot, T, S,
             [&](int list, int order, const Entry&, Count count) { add(counts, list * 2 * kCostBins + order, count); });
  __syncthreads();
  for (int c = threadIdx.x; c < kOrders; c += blockDim.x)
    if (counts[c] > 0) atomicAdd(&tiles.counts[c], counts[c]);
  if (blockIdx.y == 0 && is_untied(lists, blockIdx.x, T) && threadIdx.x == 0)
    atomicAdd(&tiles.counts[2 * kOrders], Count{1});
}

// Writes every `step`th tile of a segment's keys from tile `from` on; the last one is the first of the list.
__device__ void place_keys(const Lists& lists, Entry* to, const Entry& segment, int tile_rows, int from, int step) {
  constexpr int kAtOnce = 4;  // that many are on their way
  const int keys = segment.tile.w, tiles = tiles_of(keys, tile_rows);
  for (int tile0 = from; tile0 < tiles; tile0 += kAtOnce * step) {
    int seen[kAtOnce], next[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int tile = tile0 + i * step, outer = segment.rows.x + tile * tile_rows;
      // The first tile also looks after queries that see no key.
      seen[i] = tile == 0 || tile >= tiles ? 0 : lists.first_query[outer];
      next[i] = tile + 1 < tiles ? lists.first_query[outer + tile_rows] : INT_MAX;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int tile = tile0 + i * step, first = tile * tile_rows;
      if (tile >= tiles) break;
      Entry entry = segment;
      entry.tile.z = first, entry.tile.w = min(tile_rows, keys - first), entry.rows.x = segment.rows.x + first;
      entry.rows.z = seen[i], entry.order.x = next[i];
      to[tiles - 1 - tile] = entry;
    }
  }
}

// A block asks for room in each order once, for all it places: an atomic an entry would queue at a few addresses.
__global__ void __launch_bounds__(256) place_tiles_kernel(Lists lists, TileLists tiles, int T, int S) {
  extern __shared__ int starts_of_head[];
  __shared__ Count starts[kOrders], counts[kOrders];
  static_assert(kOrders <= 256);
  const int own = threadIdx.x;  // the order that this thread looks after, if there is one
  if (own < kOrders) starts[own] = tiles.counts[own], counts[own] = 0;
  const Starts of(starts_of_head, lists, blockIdx.x, S);
  if (threadIdx.x < kLists) {
    const int list = threadIdx.x;
    Count sum = 0, multi_block = 0;
    for (int c = 0; c < 2 * kCostBins; ++c) {
      if (c == kCostBins) multi_block = sum;
      const Count count = starts[list * 2 * kCostBins + c];
      starts[list * 2 * kCostBins + c] = sum;
      sum += count;
    }
    if (blockIdx.x == 0 && blockIdx.y == 0) {
      tiles.tile_count[list] = static_cast<int>(sum);
      if (list < kSingleBlockSegments) tiles.tile_count[kMultiBlockQueryTiles + list] = static_cast<int>(multi_block);
      if (list == 0) tiles.tile_count[kUntiedHeads] = static_cast<int>(tiles.counts[2 * kOrders]);
    }
  }
  const int slot = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  Entry entry[kLists];
  int order_of[kLists];
  Count rank[kLists];
#pragma unroll
  for (int list = 0; list < kLists; ++list) order_of[list] = -1;
  if (slot < slots_of(T, S))
    for_slot(lists, of, tiles, blockIdx.x, slot, T, S, [&](int list, int order, const Entry& found, Count count) {
      entry[list] = found;
      order_of[list] = list * 2 * kCostBins + order;
      rank[list] = add(counts, order_of[list], count);
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
  const Lists lists{s.q_segment.as<uint16_t>(),       s.k_segment.as<uint16_t>(), s.q_begin.as<int32_t>(),
                    s.k_begin.as<int32_t>(),          s.q_index.as<int32_t>(),    s.k_index.as<int32_t>(),
                    s.num_visible_keys.as<int32_t>(), s.first_query.as<int32_t>()};
  const int warps = walkers(S), bits = std::bit_width(static_cast<unsigned>(S));
  int shared_bytes = S * warps * 8;
  const int by_threads_bytes = Tallies(S).shared_bytes(T);
  const bool by_threads = Tallies::suit(S) && T <= 65536 && by_threads_bytes + 1024 <= properties().shared_memory;
  if (by_threads) shared_bytes = std::max(shared_bytes, by_threads_bytes);
  if (cudaFuncSetAttribute(sort_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) != cudaSuccess)
    fail(kOp, ": ", S, " segments need ", shared_bytes, " bytes of shared memory");
  sort_kernel<<<static_cast<unsigned>(heads), kThreads, static_cast<size_t>(shared_bytes), ctx.stream()>>>(
      lists, T, S, bits, warps, by_threads, attend_self);
  check_launch(kOp, ctx.stream());
  const TileLists tiles{{static_cast<Entry*>(s.q_tiles.data), static_cast<Entry*>(s.k_tiles.data),
                         static_cast<Entry*>(s.q_wide_tiles.data), static_cast<Entry*>(s.k_wide_tiles.data),
                         static_cast<Entry*>(s.single_block_segments.data)},
                        s.tile_count.as<int32_t>(),
                        static_cast<int>(s.single_block_max_rows),
                        heads * T >= kL2GroupMinRows ? static_cast<int>(kL2GroupMaxRows) : -1,
                        static_cast<Count*>(ctx.workspace())};
  fill(tiles.counts, 0, kCounts * sizeof(Count), ctx.stream());
  const dim3 blocks(static_cast<unsigned>(heads), static_cast<unsigned>((slots_of(T, S) + 255) / 256));
  const size_t starts_bytes = size_t{2} * (static_cast<size_t>(S) + 1) * sizeof(int);
  count_tiles_kernel<<<blocks, 256, starts_bytes, ctx.stream()>>>(lists, tiles, T, S);
  check_launch(kOp, ctx.stream());
  place_tiles_kernel<<<blocks, 256, starts_bytes, ctx.stream()>>>(lists, tiles, T, S);
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

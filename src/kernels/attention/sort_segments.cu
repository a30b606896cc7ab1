// A stable counting sort of each head's rows by segment. One block sorts one head, in one of two ways.
//
// Where queries and keys are in the same segments and these are few, one list serves both (TiedSort): each thread goes
// twice through a contiguous part of the positions, once to count rows by segment, with counters of its own, and once
// to place them in shared memory, from where they are written in order.
//
// Otherwise (WarpSort) warps go through the positions, 32 at a time. Ranks within the 32 come from warp votes, so the
// order within a segment is that of the positions, and what has been counted on the way is num_visible_keys of a query
// and first_query of a key.
#include <algorithm>
#include <bit>

#include "kernels/attention/block_scan.cuh"
#include "kernels/attention/segments_gpu.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 1024;

// ---- one list for queries and keys ----------------------------------------------------------------------------------

// Shared memory: counters [segment][thread] u16; S + 1 starts of segments; a position per entry of the list, u16.
struct TiedSortLayout {
  static constexpr int kMaxCounters = 32768;
  int threads = kThreads, counter_bytes, start_bytes;  // threads: that have counters
  __host__ __device__ explicit TiedSortLayout(int S) {
    while (threads > 8 && threads * S > kMaxCounters) threads /= 2;
    counter_bytes = 2 * threads * S, start_bytes = (S + 1 + 3) / 4 * 16;
  }
  __host__ __device__ int bytes(int T) const { return counter_bytes + start_bytes + (T + 7) / 8 * 16; }
  // Positions are u16, and with many segments there would be few threads.
  static bool suits(int T, int S) { return S <= 512 && T <= 65536; }
};

class TiedSort {
 public:
  __device__ TiedSort(const SegmentLists& lists, unsigned char* shared, int64_t head)
      : lists_(lists),
        T_(lists.T),
        S_(lists.S),
        layout_(lists.S),
        head_(head),
        counters_(reinterpret_cast<uint16_t*>(shared)),
        starts_(reinterpret_cast<int*>(shared + layout_.counter_bytes)),
        positions_(reinterpret_cast<uint16_t*>(shared + layout_.counter_bytes + layout_.start_bytes)) {
    const int per_thread = ((T_ + layout_.threads - 1) / layout_.threads + 7) / 8 * 8;
    begin_ = thread() < layout_.threads ? min(T_, thread() * per_thread) : T_;
    end_ = min(T_, begin_ + per_thread);
  }

  __device__ void run(bool attend_self) {
    auto* counters8 = reinterpret_cast<uint4*>(counters_);
    for (int i = thread(); i < layout_.threads * S_ / 8; i += kThreads) counters8[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for_each_row([](int, uint16_t& counter) { ++counter; });
    __syncthreads();
    scan_counters();
    __syncthreads();
    for_each_row([this](int t, uint16_t& counter) { positions_[counter++] = static_cast<uint16_t>(t); });
    for (int s = thread(); s <= S_; s += kThreads)
      lists_.q_begin[head_ * (S_ + 1) + s] = lists_.k_begin[head_ * (S_ + 1) + s] = starts_[s];
    __syncthreads();
    write_lists(attend_self);
  }

 private:
  __device__ static int thread() { return threadIdx.x; }

  // Calls work(position, counter of its segment) for each of the thread's positions that is in a segment.
  template <class Work>
  __device__ void for_each_row(const Work& work) {
    const uint16_t* ids = lists_.q_segment + head_ * T_;
    for (int t = begin_; t < end_; t += 8) {
      int id[8];
      if (T_ % 8 == 0) {
        const uint4 eight = *reinterpret_cast<const uint4*>(ids + t);
        const uint32_t two[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int j = 0; j < 8; ++j) id[j] = static_cast<int>(two[j / 2] >> 16 * (j % 2) & 0xFFFF);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) id[j] = t + j < end_ ? ids[t + j] : S_;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (id[j] < S_) work(t + j, counters_[id[j] * layout_.threads + thread()]);
    }
  }

  // Counters become the numbers of rows before; starts of segments are written. Eight counters at a time.
  __device__ void scan_counters() {
    const int eights = layout_.threads * S_ / 8, per_thread = (eights + kThreads - 1) / kThreads;
    const int first = min(eights, thread() * per_thread), last = min(eights, first + per_thread);
    auto* counters8 = reinterpret_cast<uint4*>(counters_);
    int sum = 0, total = 0;
    for (int i = first; i < last; ++i) {
      const uint4 x = counters8[i];
      for (const uint32_t two : {x.x, x.y, x.z, x.w}) sum += static_cast<int>((two & 0xFFFF) + (two >> 16));
    }
    int before = exclusive_sum<kThreads>(sum, total);
    for (int i = first; i < last; ++i) {
      if (i * 8 % layout_.threads == 0) starts_[i * 8 / layout_.threads] = before;
      uint4 x = counters8[i];
      for (uint32_t* two : {&x.x, &x.y, &x.z, &x.w}) {
        const int low = static_cast<int>(*two & 0xFFFF), high = static_cast<int>(*two >> 16);
        *two = static_cast<uint32_t>(before & 0xFFFF) | static_cast<uint32_t>(before + low) << 16;
        before += low + high;
      }
      counters8[i] = x;
    }
    if (thread() == 0) starts_[S_] = total;
  }

  // Four entries per thread and round. An entry's rank in its segment is the number of rows before it there.
  __device__ void write_lists(bool attend_self) const {
    const int64_t list = head_ * T_;
    const int rows = starts_[S_], visible = attend_self ? 1 : 0, hidden = attend_self ? 0 : 1;
    for (int i = 4 * thread(); i < rows; i += 4 * kThreads) {
      int segment = segment_at(starts_, S_, i);
      const uint2 four = *reinterpret_cast<const uint2*>(positions_ + i);
      const int index[4] = {static_cast<int>(four.x & 0xFFFF), static_cast<int>(four.x >> 16),
                            static_cast<int>(four.y & 0xFFFF), static_cast<int>(four.y >> 16)};
      int rank[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        while (segment + 1 < S_ && starts_[segment + 1] <= i + j) ++segment;
        rank[j] = i + j - starts_[segment];
      }
      if (T_ % 4 == 0 && i + 4 <= rows) {
        const auto store = [&](int* to, const int(&x)[4], int plus) {
          *reinterpret_cast<int4*>(to + list + i) = make_int4(x[0] + plus, x[1] + plus, x[2] + plus, x[3] + plus);
        };
        store(lists_.q_index, index, 0), store(lists_.k_index, index, 0);
        store(lists_.num_visible_keys, rank, visible), store(lists_.first_query, rank, hidden);
      } else {
        for (int j = 0; j < 4 && i + j < rows; ++j) {
          lists_.q_index[list + i + j] = lists_.k_index[list + i + j] = index[j];
          lists_.num_visible_keys[list + i + j] = rank[j] + visible;
          lists_.first_query[list + i + j] = rank[j] + hidden;
        }
      }
    }
  }

  const SegmentLists& lists_;
  const int T_, S_;
  const TiedSortLayout layout_;
  const int64_t head_;
  uint16_t* const counters_;
  int* const starts_;
  uint16_t* const positions_;
  int begin_, end_;  // the thread's positions
};

// ---- any segments ---------------------------------------------------------------------------------------------------

// Warps that sort: as many as have counters for queries and keys within 64 KB of shared memory.
int warps_that_sort(int S) {
  int warps = 32;
  while (warps > 1 && S * warps * 8 > 64 * 1024) warps /= 2;
  return warps;
}

// Of numbers below 2^bits, one per lane: which lanes have this lane's `mine`, and which have its `other`.
__device__ void match(int number, int mine, int other, int bits, unsigned& of_mine, unsigned& of_other) {
  of_mine = of_other = kFullMask;
  for (int b = 0; b < bits; ++b) {
    const unsigned set = __ballot_sync(kFullMask, number >> b & 1);
    of_mine &= mine >> b & 1 ? set : ~set;
    of_other &= other >> b & 1 ? set : ~set;
  }
}

// The segments of a head's rows; S for none.
struct SegmentIds {
  const uint16_t* id;
  int T, S;
  __device__ int at(int t) const { return t < T ? min(static_cast<int>(id[t]), S) : S; }
};

// Calls work(position, query's segment, key's) for each lane's position of a warp's part, 32 by 32; the loads of four
// times as many are under way.
template <class Work>
__device__ void for_each_position(const SegmentIds& q, const SegmentIds& k, int begin, int end, const Work& work) {
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

class WarpSort {
 public:
  // bits: S fits in them. counters: [segment][warp] of queries, then of keys.
  __device__ WarpSort(const SegmentLists& lists, int* counters, int64_t head, int bits, int warps)
      : lists_(lists),
        S_(lists.S),
        bits_(bits),
        warps_(warps),
        head_(head),
        q_ids_{lists.q_segment + head * lists.T, lists.T, lists.S},
        k_ids_{lists.k_segment + head * lists.T, lists.T, lists.S},
        q_count_(counters),
        k_count_(counters + lists.S * warps) {
    const int part = ((lists.T + warps - 1) / warps + 31) / 32 * 32;
    begin_ = warp_ < warps ? min(lists.T, warp_ * part) : lists.T;
    end_ = min(lists.T, begin_ + part);
  }

  __device__ void run(bool attend_self) {
    for (int i = threadIdx.x; i < 2 * S_ * warps_; i += kThreads) q_count_[i] = 0;
    __syncthreads();
    count(q_count_, q_ids_);
    count(k_count_, k_ids_);
    __syncthreads();
    const int queries = exclusive_scan<kThreads>(q_count_, S_ * warps_);
    const int keys = exclusive_scan<kThreads>(k_count_, S_ * warps_);
    int *q_begin = lists_.q_begin + head_ * (S_ + 1), *k_begin = lists_.k_begin + head_ * (S_ + 1);
    for (int s = threadIdx.x; s <= S_; s += kThreads) {
      q_begin[s] = s < S_ ? q_count_[s * warps_] : queries;
      k_begin[s] = s < S_ ? k_count_[s * warps_] : keys;
    }
    __syncthreads();
    place(q_begin, k_begin, attend_self);
  }

 private:
  __device__ void count(int* counts, const SegmentIds& ids) const {
    for_each_position(ids, ids, begin_, end_, [&](int, int id, int) {
      unsigned peers, unused;
      match(id, id, id, bits_, peers, unused);
      if (id < S_ && (peers & before_) == 0) counts[id * warps_ + warp_] += __popc(peers);
      __syncwarp();
    });
  }

  // A counter is where the warp's next row of the segment goes.
  __device__ void place(const int* q_begin, const int* k_begin, bool attend_self) const {
    const int64_t list = head_ * lists_.T;
    for_each_position(q_ids_, k_ids_, begin_, end_, [&](int t, int q, int k) {
      unsigned q_peers, k_peers, keys_of_query, queries_of_key;
      match(q, q, k, bits_, q_peers, queries_of_key);
      match(k, k, q, bits_, k_peers, keys_of_query);
      const unsigned up_to = attend_self ? before_ | 1u << lane_ : before_;    // keys that a query here sees
      const unsigned earlier = attend_self ? before_ : before_ | 1u << lane_;  // queries that do not see a key here
      if (q < S_) {
        const int64_t at = list + q_count_[q * warps_ + warp_] + __popc(q_peers & before_);
        lists_.q_index[at] = t;
        lists_.num_visible_keys[at] = k_count_[q * warps_ + warp_] - k_begin[q] + __popc(keys_of_query & up_to);
      }
      if (k < S_) {
        const int64_t at = list + k_count_[k * warps_ + warp_] + __popc(k_peers & before_);
        lists_.k_index[at] = t;
        lists_.first_query[at] = q_count_[k * warps_ + warp_] - q_begin[k] + __popc(queries_of_key & earlier);
      }
      __syncwarp();
      if (q < S_ && (q_peers & before_) == 0) q_count_[q * warps_ + warp_] += __popc(q_peers);
      if (k < S_ && (k_peers & before_) == 0) k_count_[k * warps_ + warp_] += __popc(k_peers);
      __syncwarp();
    });
  }

  const SegmentLists& lists_;
  const int S_, bits_, warps_;
  const int64_t head_;
  const SegmentIds q_ids_, k_ids_;
  int *const q_count_, *const k_count_;
  const int lane_ = threadIdx.x % 32, warp_ = threadIdx.x / 32;
  const unsigned before_ = (1u << lane_) - 1;  // the lanes before this one
  int begin_, end_;                            // the warp's positions
};

// tied_fits: there is room for TiedSort, where the head is tied.
__global__ void __launch_bounds__(kThreads, 2)
    sort_segments_kernel(SegmentLists lists, int bits, int warps, bool tied_fits, bool attend_self) {
  extern __shared__ uint4 shared[];
  const int64_t head = blockIdx.x;
  if (tied_fits && !is_untied(lists, head))
    TiedSort(lists, reinterpret_cast<unsigned char*>(shared), head).run(attend_self);
  else
    WarpSort(lists, reinterpret_cast<int*>(shared), head, bits, warps).run(attend_self);
}

}  // namespace

void sort_segments(Stream stream, const SegmentLists& lists, bool attend_self) {
  constexpr const char* kOp = "build_segments";
  const int warps = warps_that_sort(lists.S), bits = std::bit_width(static_cast<unsigned>(lists.S));
  int shared_bytes = lists.S * warps * 8;
  const int tied_bytes = TiedSortLayout(lists.S).bytes(lists.T);
  const bool tied_fits = TiedSortLayout::suits(lists.T, lists.S) && tied_bytes + 1024 <= properties().shared_memory;
  if (tied_fits) shared_bytes = std::max(shared_bytes, tied_bytes);
  if (cudaFuncSetAttribute(sort_segments_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) !=
      cudaSuccess)
    fail(kOp, ": ", lists.S, " segments need ", shared_bytes, " bytes of shared memory");
  sort_segments_kernel<<<static_cast<unsigned>(lists.heads), kThreads, static_cast<size_t>(shared_bytes), stream>>>(
      lists, bits, warps, tied_fits, attend_self);
  check_launch(kOp, stream);
}

void build_segments(Context& ctx, const Segments& s, bool attend_self) {
  const SegmentLists lists{s.q_segment.as<uint16_t>(),
                           s.k_segment.as<uint16_t>(),
                           s.q_begin.as<int32_t>(),
                           s.k_begin.as<int32_t>(),
                           s.q_index.as<int32_t>(),
                           s.k_index.as<int32_t>(),
                           s.num_visible_keys.as<int32_t>(),
                           s.first_query.as<int32_t>(),
                           static_cast<int>(s.q_segment.size(0) * s.q_segment.size(1)),
                           static_cast<int>(s.q_segment.size(2)),
                           static_cast<int>(s.count())};
  sort_segments(ctx.stream(), lists, attend_self);
  build_work_lists(ctx.stream(), lists, s.work, ctx.workspace());
}

}  // namespace scfa::gpu

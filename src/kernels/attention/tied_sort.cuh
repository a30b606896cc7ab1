// The counting sort of a head whose queries and keys are in the same segments, where these are few: one list serves
// both. Each thread goes twice through a contiguous part of the positions, once to count rows by segment, with counters
// of its own, and once to place them in shared memory, from where they are written in order.
#pragma once
#include "kernels/attention/block_scan.cuh"
#include "kernels/attention/segments_gpu.cuh"

namespace scfa::gpu {

// Shared memory: counters [segment][thread] u16; S + 1 starts of segments; a position per entry of the list, u16.
struct TiedSortLayout {
  static constexpr int kMaxCounters = 32768;
  int threads = kSortThreads, counter_bytes, start_bytes;  // threads: that have counters
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
    for (int i = thread(); i < layout_.threads * S_ / 8; i += kSortThreads) counters8[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for_each_row([](int, uint16_t& counter) { ++counter; });
    __syncthreads();
    scan_counters();
    __syncthreads();
    for_each_row([this](int t, uint16_t& counter) { positions_[counter++] = static_cast<uint16_t>(t); });
    for (int s = thread(); s <= S_; s += kSortThreads)
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

  // An exclusive prefix sum over the counters, eight at a time. Also writes where each segment starts in the list.
  __device__ void scan_counters() {
    const int eights = layout_.threads * S_ / 8, per_thread = (eights + kSortThreads - 1) / kSortThreads;
    const int first = min(eights, thread() * per_thread), last = min(eights, first + per_thread);
    auto* counters8 = reinterpret_cast<uint4*>(counters_);
    int sum = 0, total = 0;
    for (int i = first; i < last; ++i) {
      const uint4 x = counters8[i];
      for (const uint32_t two : {x.x, x.y, x.z, x.w}) sum += static_cast<int>((two & 0xFFFF) + (two >> 16));
    }
    int before = exclusive_sum(sum, total);
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
    const int rows = starts_[S_], end_key_offset = attend_self ? 1 : 0, begin_query_offset = attend_self ? 0 : 1;
    for (int i = 4 * thread(); i < rows; i += 4 * kSortThreads) {
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
        store(lists_.end_key, rank, end_key_offset), store(lists_.begin_query, rank, begin_query_offset);
      } else {
        for (int j = 0; j < 4 && i + j < rows; ++j) {
          lists_.q_index[list + i + j] = lists_.k_index[list + i + j] = index[j];
          lists_.end_key[list + i + j] = rank[j] + end_key_offset;
          lists_.begin_query[list + i + j] = rank[j] + begin_query_offset;
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

}  // namespace scfa::gpu

// The counting sort of a head with any segments. Warps go through the positions, 32 at a time. Ranks within the 32 come
// from warp votes, so the order within a segment is that of the positions, and what has been counted on the way is
// end_key of a query and begin_query of a key.
#pragma once
#include "kernels/attention/block_scan.cuh"
#include "kernels/attention/segments_gpu.cuh"

namespace scfa::gpu {

// number: below 2^bits. of_mine, of_other: the lanes whose number equals this lane's `mine`, and its `other`.
__device__ inline void lanes_equal_to(int number, int mine, int other, int bits, unsigned& of_mine,
                                      unsigned& of_other) {
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

// Calls work(position, segment of its query, segment of its key) for the positions [begin, end) of a warp, one per
// lane. The loads of four such steps are in flight together.
template <class Work>
__device__ inline void for_each_position(const SegmentIds& q, const SegmentIds& k, int begin, int end,
                                         const Work& work) {
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
    for (int i = threadIdx.x; i < 2 * S_ * warps_; i += kSortThreads) q_count_[i] = 0;
    __syncthreads();
    count(q_count_, q_ids_);
    count(k_count_, k_ids_);
    __syncthreads();
    const int queries = exclusive_scan(q_count_, S_ * warps_);
    const int keys = exclusive_scan(k_count_, S_ * warps_);
    int *q_begin = lists_.q_begin + head_ * (S_ + 1), *k_begin = lists_.k_begin + head_ * (S_ + 1);
    for (int s = threadIdx.x; s <= S_; s += kSortThreads) {
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
      lanes_equal_to(id, id, id, bits_, peers, unused);
      if (id < S_ && (peers & before_) == 0) counts[id * warps_ + warp_] += __popc(peers);
      __syncwarp();
    });
  }

  // A counter is where the warp's next row of the segment goes.
  __device__ void place(const int* q_begin, const int* k_begin, bool attend_self) const {
    const int64_t list = head_ * lists_.T;
    for_each_position(q_ids_, k_ids_, begin_, end_, [&](int t, int q, int k) {
      unsigned q_peers, k_peers, keys_of_query, queries_of_key;
      lanes_equal_to(q, q, k, bits_, q_peers, queries_of_key);
      lanes_equal_to(k, k, q, bits_, k_peers, keys_of_query);
      const unsigned up_to = attend_self ? before_ | 1u << lane_ : before_;    // keys that a query here sees
      const unsigned earlier = attend_self ? before_ : before_ | 1u << lane_;  // queries that do not see a key here
      if (q < S_) {
        const int64_t at = list + q_count_[q * warps_ + warp_] + __popc(q_peers & before_);
        lists_.q_index[at] = t;
        lists_.end_key[at] = k_count_[q * warps_ + warp_] - k_begin[q] + __popc(keys_of_query & up_to);
      }
      if (k < S_) {
        const int64_t at = list + k_count_[k * warps_ + warp_] + __popc(k_peers & before_);
        lists_.k_index[at] = t;
        lists_.begin_query[at] = q_count_[k * warps_ + warp_] - q_begin[k] + __popc(queries_of_key & earlier);
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

}  // namespace scfa::gpu

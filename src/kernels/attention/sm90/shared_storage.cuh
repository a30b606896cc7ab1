// What a block of the sm_90 kernels has in shared memory. A block works as in FlashAttention-3 (Shah et al. 2024,
// arXiv:2407.08608): warpgroup 0 is the producer, which gathers rows from token order into a circular buffer of stages;
// the other warpgroups are consumers, and each computes 64 rows of a tile. Copies for the next steps, and for the next
// tile, overlap with the GEMMs. Consumers may be up to kStages - 1 steps apart. They synchronise with each other only
// in backward, to exchange ds.
//
// mbarriers, n = kConsumerWarpgroups. "Copies" means mbarrier_arrive_on_copies: when all cp.async that the thread has
// started are complete. Parity: that of the first wait (1 passes at once: nothing is in use yet).
//
//   barrier                 arrivals  who arrives                           who waits, for what               parity
//   item_full[2]                   1  producer thread 0: copies of the      producer: the work item           0
//                                     item; plainly, if none is left
//   tile_full[2], of which       129  each producer thread: copies; thread  consumers: outer rows, norms,     0
//     kTileStages are used            0 once more: WorkTileInfo is written  WorkTileInfo
//                                     (plain arrivals at the end)
//   tile_empty[2], likewise       4n  each consumer warp, at the end of     producer: all of that may be      1
//                                     the tile                              overwritten
//   full[kStages]                128  each producer thread: copies          consumers: inner rows, lse and    0
//                                                                           delta of a step
//   empty[kStages]                4n  each consumer warp, when its          producer: these may be            1
//                                     GEMMs have read the stage, or at   overwritten
//                                     once, if it skips the step
//   ds_full[n]                    4n  each consumer warp, when it has       consumer warpgroup i: all of ds   0
//                                     stored its rows to buffer i           of a step
//   ds_empty[n]                    4  each warp of consumer warpgroup i,    consumers, before they store ds   1
//                                     when its GEMMs have read buffer i
//
// ds_* are used in backward only. Named barriers (bar.sync, 128 threads each): kProducerBarrier, before the producer
// reads item k: all its threads are done with item k - 1, whose place item k + 1 goes to. kConsumerBarrier0 + i, after
// a tile's last step: no warp of consumer warpgroup i reads its rows of the queries (forward) or values (backward) any
// more, and the epilogue may overwrite them. __syncthreads is used once, after the mbarriers are initialised.
//
// Where thread blocks share sums of dq there are semaphores in global memory too: see dq_semaphore.cuh.
//
// wgmma reads shared memory through the async proxy. Copies by cp.async are waited for by consumers, which then fence
// (fence_proxy_async), once per stage; ordinary stores of ds are fenced by the warp that stores.
#pragma once
#include "kernels/attention/sm90/kernel_traits.cuh"
#include "kernels/sm90/mbarrier.cuh"

namespace scfa::gpu::sm90 {

// What consumers know of a tile; the producer writes it. Consumers read each field where they need it
// (WorkTileInfoView), because registers are few.
template <class Traits>
struct WorkTileInfo {
  // In all kernels:
  int head, num_rows;  // head < 0: no tile is left
  int begin, end;      // the inner rows that the tile meets; in backward begin is rounded down to a step
  // In backward:
  int n_block;       // the key tile's number within the segment
  int is_last;       // DqPrivate: whether it is the segment's last
  int query_offset;  // where the segment's queries start in the sorted lists
  int first_seen;    // DqPrivate: begin of the segment's first tile
  // DqShared, read together (RingBlock in dq_semaphore.cuh): begin of the next key tile; where the segment's first
  // block of queries is in dq_ring; in which round of the ring; n_block once more.
  int next_begin, ring_position, ring_round, n_block_again;
  alignas(16) int tokens[Traits::kOuterRows];
  alignas(16) int causal_bounds[Traits::kOuterRows];  // end_key or begin_query of the rows; zero past them
};
// With ranges.
template <class Traits>
struct RangedWorkTileInfo {
  WorkTileInfo<Traits> common;
  // In backward: behind the last query of the previous key tile, 0 in the first; how many queries the segment has.
  int previous_end, num_queries, unused[2];
  alignas(16) int window_bounds[Traits::kOuterRows];  // begin_key or end_query of the rows; zero past them
};
template <class Traits>
using StoredWorkTileInfo = std::conditional_t<Traits::kIsLocal, RangedWorkTileInfo<Traits>, WorkTileInfo<Traits>>;

template <class Traits>
struct WorkTileInfoView {
  using Info = WorkTileInfo<Traits>;
  using Ranged = RangedWorkTileInfo<Traits>;
  uint32_t base;  // address
  __device__ int head() const { return load_int(base + offsetof(Info, head)); }
  __device__ int num_rows() const { return load_int(base + offsetof(Info, num_rows)); }
  __device__ int begin() const { return load_int(base + offsetof(Info, begin)); }
  __device__ int end() const { return load_int(base + offsetof(Info, end)); }
  __device__ int n_block() const { return load_int(base + offsetof(Info, n_block)); }
  __device__ int is_last() const { return load_int(base + offsetof(Info, is_last)); }
  __device__ int query_offset() const { return load_int(base + offsetof(Info, query_offset)); }
  __device__ int first_seen() const { return load_int(base + offsetof(Info, first_seen)); }
  struct DqOrder {
    int next_begin, ring_position, ring_round, n_block;
  };
  __device__ DqOrder dq_order() const {
    const int4 four = load_int4(base + offsetof(Info, next_begin));
    return {four.x, four.y, four.z, four.w};
  }
  __device__ int token(int row) const { return load_int(base + offsetof(Info, tokens) + 4 * row); }
  __device__ uint32_t causal_bound_address(int row) const { return base + offsetof(Info, causal_bounds) + 4 * row; }
  __device__ int causal_bound(int row) const { return load_int(causal_bound_address(row)); }
  __device__ int previous_end() const { return load_int(base + offsetof(Ranged, previous_end)); }
  __device__ int num_queries() const { return load_int(base + offsetof(Ranged, num_queries)); }
  __device__ uint32_t window_bound_address(int row) const { return base + offsetof(Ranged, window_bounds) + 4 * row; }
  __device__ int window_bound(int row) const { return load_int(window_bound_address(row)); }
};

// Parts of the index list of inner rows, one per step, that are under way or in use.
constexpr int kIndexStages = 4;

// Item: what the kernel's work list has. The members give addresses.
template <class Traits_, class Item_>
class SharedStorage {
 public:
  using Traits = Traits_;
  using Item = Item_;

 private:
  struct Layout {  // aligned to 1024 bytes, as the 128-byte swizzle of wgmma requires
    unsigned char outer[Traits::kTileStages][Traits::kOuterOperands][Traits::OuterTile::kBytes];
    unsigned char inner[Traits::kStages][2][Traits::InnerTile::kBytes];
    unsigned char ds[Traits::kDsBuffers * Traits::DsTile::kBytes + 16];  // 16: C++ has no empty arrays
    StoredWorkTileInfo<Traits> work_tile[Traits::kTileStages];
    float inverse_norm[Traits::kTileStages][Traits::kOuterRows];  // of keys that are normalised queries
    float lse_delta[Traits::kStages][2][Traits::kInnerRows];      // lse, then delta, of the queries of a step
    int index[kIndexStages][Traits::kInnerRows];
    Item item[2];
    uint64_t item_full[2], tile_full[2], tile_empty[2], full[Traits::kStages], empty[Traits::kStages];
    uint64_t ds_full[Traits::kConsumerWarpgroups], ds_empty[Traits::kConsumerWarpgroups];
    int fuses_norm;
  };

 public:
  static constexpr int kBytes = static_cast<int>(sizeof(Layout)) + 1024;
  static_assert(kBytes <= 232448);

  __device__ SharedStorage() {
    extern __shared__ unsigned char shared[];
    base_ = (shared_address(shared) + 1023u) & ~1023u;
  }
  // which: 0 is q or k, 1 is v; of inner rows, 0 is k or q, 1 is v or dout.
  __device__ uint32_t outer(int stage, int which) const {
    return base_ + (stage * Traits::kOuterOperands + which) * Traits::OuterTile::kBytes;
  }
  __device__ uint32_t inner(int stage, int which) const {
    return base_ + offsetof(Layout, inner) + (stage * 2 + which) * Traits::InnerTile::kBytes;
  }
  __device__ uint32_t ds(int buffer) const { return base_ + offsetof(Layout, ds) + buffer * Traits::DsTile::kBytes; }
  __device__ uint32_t work_tile(int stage) const {
    return base_ + offsetof(Layout, work_tile) + stage * static_cast<int>(sizeof(StoredWorkTileInfo<Traits>));
  }
  __device__ uint32_t inverse_norm(int stage) const {
    return base_ + offsetof(Layout, inverse_norm) + stage * Traits::kOuterRows * 4;
  }
  __device__ uint32_t lse(int stage) const {
    return base_ + offsetof(Layout, lse_delta) + stage * Traits::kInnerRows * 8;
  }
  __device__ uint32_t delta(int stage) const { return lse(stage) + Traits::kInnerRows * 4; }
  __device__ uint32_t index(int stage) const {
    return base_ + offsetof(Layout, index) + stage * Traits::kInnerRows * 4;
  }
  __device__ uint32_t item(int i) const { return base_ + offsetof(Layout, item) + i * static_cast<int>(sizeof(Item)); }
  // The first of the barriers of each kind; they lie 8 bytes apart.
  __device__ uint32_t item_full() const { return base_ + offsetof(Layout, item_full); }
  __device__ uint32_t tile_full() const { return base_ + offsetof(Layout, tile_full); }
  __device__ uint32_t tile_empty() const { return base_ + offsetof(Layout, tile_empty); }
  __device__ uint32_t full() const { return base_ + offsetof(Layout, full); }
  __device__ uint32_t empty() const { return base_ + offsetof(Layout, empty); }
  __device__ uint32_t ds_full(int i) const { return base_ + offsetof(Layout, ds_full) + 8 * i; }
  __device__ uint32_t ds_empty(int i) const { return base_ + offsetof(Layout, ds_empty) + 8 * i; }

  // In backward: whether the gradient through normalised keys is added to dq (merged). This needs the rows of a key
  // tile to be queries of its segment too, so no head may be untied: every row is in the same segment as query and as
  // key.
  __device__ bool fuses_norm() const { return load_int(base_ + offsetof(Layout, fuses_norm)) != 0; }

  // Initialises the barriers; by all threads of the block.
  __device__ void init(bool fuses_norm = false) const {
    constexpr int kConsumerWarps = 4 * Traits::kConsumerWarpgroups;
    if (threadIdx.x == 0) {
      store_int(base_ + offsetof(Layout, fuses_norm), fuses_norm ? 1 : 0);
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(item_full() + 8 * i, 1);
        mbarrier_init(tile_full() + 8 * i, kWarpgroupSize + 1);
        mbarrier_init(tile_empty() + 8 * i, kConsumerWarps);
      }
      for (int i = 0; i < Traits::kStages; ++i) {
        mbarrier_init(full() + 8 * i, kWarpgroupSize);
        mbarrier_init(empty() + 8 * i, kConsumerWarps);
      }
      for (int i = 0; i < Traits::kConsumerWarpgroups; ++i) {
        mbarrier_init(ds_full(i), kConsumerWarps);
        mbarrier_init(ds_empty(i), 4);
      }
      fence_barrier_init();
    }
    __syncthreads();
  }

 private:
  uint32_t base_;
};

}  // namespace scfa::gpu::sm90

// How a block of the Hopper kernels works, after FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608). Warpgroup 0 is
// the producer: it gathers rows from token order into a circular buffer of stages. The other warpgroups are consumers:
// each computes 64 rows of a tile. mbarriers pass stages and tiles back and forth. So copies for the next steps, and
// for the next tile, run beside the products, and consumers need not keep step with each other.
#pragma once
#include "kernels/attention/attention_tiles.cuh"
#include "kernels/attention/wgmma_sm90.cuh"

namespace scfa::gpu::sm90 {

// The constants of a kernel. The outer tile is what a block works on: rows of queries in forward (kBlockM of them), of
// keys in backward (kBlockN). The inner rows pass by in steps: keys in forward, queries in backward. Config has
//   kD                   the head dim that rows are padded to
//   kConsumerWarpgroups  warpgroups that compute, 64 rows of the outer tile each
//   kOuterOperands       how many tensors of the outer rows are loaded: q, or k and v
//   kTileStages          stages for outer tiles; with two, the next one is loaded while this one is computed
//   kInnerRows           inner rows per step; a stage has these rows of two tensors: k and v, or q and dout
//   kStages              stages for steps
//   kProducerRegs, kConsumerRegs  registers per thread of the producer warpgroup and of consumer warpgroups
//   kExtraBytes          more shared memory: in backward, the buffers of ds
template <class Config>
struct KernelTraits : Config {
  using Config::kD, Config::kConsumerWarpgroups, Config::kTileStages, Config::kInnerRows, Config::kStages;
  static constexpr int kOuterRows = 64 * kConsumerWarpgroups, kThreads = kGroup * (1 + kConsumerWarpgroups);
  // Where blocks share sums of dq: consumers add dq of a step two steps later, before they release that later step's
  // stage. When the producer loads this stage again, kStages steps on, it knows that dq has been added and signals it.
  static constexpr int kDqSignalLag = kStages + 2;
  static_assert((Config::kProducerRegs + kConsumerWarpgroups * Config::kConsumerRegs) * kGroup <= 65536);
  static_assert(kTileStages <= 2);
  using OuterTile = Tile<kOuterRows, kD>;
  using InnerTile = Tile<kInnerRows, kD>;
};

// What consumers know of a tile; the producer writes it. It lies in shared memory, and consumers read each field where
// they need it (WorkTileInfoView), because registers are few.
template <class Traits>
struct WorkTileInfo {
  int head, rows;  // head < 0: no tile is left
  int begin, end;  // the inner rows that the tile meets
  // Where a block takes a whole segment: the tile's number in it, whether it is the last, where the segment's queries
  // start in the sorted lists, and the first of them that sees any key, rounded down to a step.
  int number, last, queries, first_seen;
  // Where several blocks take the key tiles of a segment: the first query that sees the next tile, where in dq_ring the
  // segment's first block of queries lies, how often the ring has gone round before, the tile's number.
  int next, place, use, tile;
  alignas(16) int tokens[Traits::kOuterRows];
  alignas(16) int bounds[Traits::kOuterRows];  // num_visible_keys or first_query of the rows; zero past them
};
template <class Traits>
struct WorkTileInfoView {
  uint32_t at;
  __device__ int head() const { return load_int(at); }
  __device__ int rows() const { return load_int(at + offsetof(WorkTileInfo<Traits>, rows)); }
  __device__ int begin() const { return load_int(at + offsetof(WorkTileInfo<Traits>, begin)); }
  __device__ int end() const { return load_int(at + offsetof(WorkTileInfo<Traits>, end)); }
  __device__ int number() const { return load_int(at + offsetof(WorkTileInfo<Traits>, number)); }
  __device__ int last() const { return load_int(at + offsetof(WorkTileInfo<Traits>, last)); }
  __device__ int queries() const { return load_int(at + offsetof(WorkTileInfo<Traits>, queries)); }
  __device__ int first_seen() const { return load_int(at + offsetof(WorkTileInfo<Traits>, first_seen)); }
  __device__ uint32_t order() const { return at + offsetof(WorkTileInfo<Traits>, next); }
  __device__ int token(int row) const { return load_int(at + offsetof(WorkTileInfo<Traits>, tokens) + 4 * row); }
  __device__ uint32_t bounds(int row) const { return at + offsetof(WorkTileInfo<Traits>, bounds) + 4 * row; }
  __device__ int bound(int row) const { return load_int(bounds(row)); }
};

// Parts of the index list of inner rows that are on their way or in use, one per step.
constexpr int kIndexAhead = 4;

// The layout of a block's shared memory: addresses of its parts.
template <class Traits>
class SharedStorage {
  struct Barriers {
    uint64_t entry_full[2], tile_full[2], tile_empty[2], full[Traits::kStages], empty[Traits::kStages];
    uint64_t exchange_full[Traits::kConsumerWarpgroups], exchange_empty[Traits::kConsumerWarpgroups];
    int fuses_norm;
  };
  static constexpr int kStageStart = Traits::kTileStages * Traits::kOuterOperands * Traits::OuterTile::kBytes;
  static constexpr int kExtraStart = kStageStart + Traits::kStages * 2 * Traits::InnerTile::kBytes;
  static constexpr int kWorkTileStart = kExtraStart + Traits::kExtraBytes;
  static constexpr int kOuterStatisticsStart =
      kWorkTileStart + Traits::kTileStages * static_cast<int>(sizeof(WorkTileInfo<Traits>));
  static constexpr int kStatisticsStart = kOuterStatisticsStart + Traits::kTileStages * Traits::kOuterRows * 8;
  static constexpr int kIndexStart = kStatisticsStart + Traits::kStages * Traits::kInnerRows * 8;
  static constexpr int kEntryStart = kIndexStart + kIndexAhead * Traits::kInnerRows * 4;
  static constexpr int kBarrierStart = kEntryStart + 2 * 16 * kEntryWords;

 public:
  static constexpr int kBytes = kBarrierStart + static_cast<int>(sizeof(Barriers)) + 1024;  // to align
  static_assert(kBytes <= 232448);

  __device__ SharedStorage() {
    extern __shared__ unsigned char shared[];
    base_ = (shared_address(shared) + 1023u) & ~1023u;
  }
  __device__ uint32_t outer(int stage, int which) const {
    return base_ + (stage * Traits::kOuterOperands + which) * Traits::OuterTile::kBytes;
  }
  __device__ uint32_t inner(int stage, int which) const {
    return base_ + kStageStart + (stage * 2 + which) * Traits::InnerTile::kBytes;
  }
  __device__ uint32_t extra() const { return base_ + kExtraStart; }
  __device__ uint32_t work_tile(int i) const {
    return base_ + kWorkTileStart + i * static_cast<int>(sizeof(WorkTileInfo<Traits>));
  }
  // In backward, 4 bytes each. outer_statistics: for each outer row, a key, 1 / |q| of the same token. statistics: lse
  // of each query of the stage, then delta of each.
  __device__ uint32_t outer_statistics(int stage) const {
    return base_ + kOuterStatisticsStart + stage * Traits::kOuterRows * 8;
  }
  __device__ uint32_t statistics(int stage) const { return base_ + kStatisticsStart + stage * Traits::kInnerRows * 8; }
  __device__ uint32_t index(int i) const { return base_ + kIndexStart + i * Traits::kInnerRows * 4; }
  __device__ uint32_t entry(int i) const { return base_ + kEntryStart + 16 * kEntryWords * i; }
  __device__ uint32_t entry_full() const { return base_ + kBarrierStart + offsetof(Barriers, entry_full); }
  __device__ uint32_t tile_full() const { return base_ + kBarrierStart + offsetof(Barriers, tile_full); }
  __device__ uint32_t tile_empty() const { return base_ + kBarrierStart + offsetof(Barriers, tile_empty); }
  __device__ uint32_t full() const { return base_ + kBarrierStart + offsetof(Barriers, full); }
  __device__ uint32_t empty() const { return base_ + kBarrierStart + offsetof(Barriers, empty); }

  // Of the buffers through which consumers exchange ds, one per consumer warpgroup: all write it, that one reads it.
  __device__ uint32_t exchange_full() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_full); }
  __device__ uint32_t exchange_empty() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_empty); }

  // In backward: whether the gradient through normalised keys is added to dq. This needs the rows of a key tile to be
  // queries of its segment too: every row is in the same segment as query and as key.
  __device__ bool fuses_norm() const { return load_int(base_ + kBarrierStart + offsetof(Barriers, fuses_norm)) != 0; }

  // By all threads of the block.
  __device__ void make_barriers(bool fuses = false) const {
    if (threadIdx.x == 0) {
      store_int(base_ + kBarrierStart + offsetof(Barriers, fuses_norm), fuses ? 1 : 0);
      for (int i = 0; i < 2; ++i) {
        barrier_init(entry_full() + 8 * i, 1);
        barrier_init(tile_full() + 8 * i, kGroup + 1);  // every thread's copies, and the WorkTileInfo
        barrier_init(tile_empty() + 8 * i, 4 * Traits::kConsumerWarpgroups);
      }
      for (int i = 0; i < Traits::kStages; ++i) {
        barrier_init(full() + 8 * i, kGroup);
        barrier_init(empty() + 8 * i, 4 * Traits::kConsumerWarpgroups);
      }
      for (int i = 0; i < Traits::kConsumerWarpgroups; ++i) {
        barrier_init(exchange_full() + 8 * i, 4 * Traits::kConsumerWarpgroups);
        barrier_init(exchange_empty() + 8 * i, 4);
      }
      barriers_are_made();
    }
    __syncthreads();
  }

 private:
  uint32_t base_;
};

// By each consumer warp: one lane arrives for all of them.
[[maybe_unused]] __device__ inline void release(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// ---- computing ------------------------------------------------------------------------------------------------------

// The steps through the inner rows that a tile meets. Where a block takes a segment whole, every second tile goes
// through them backwards: what the L2 cache still holds comes first.
struct Steps {
  int first, count, step;
  __device__ Steps(int begin, int end, int size, bool backwards)
      : first(begin), count((max(end - begin, 0) + size - 1) / size), step(size) {
    if (backwards) first = begin + (count - 1) * size, step = -size;
  }
  __device__ int at(int i) const { return first + i * step; }
};

// Waits for and releases the stages of steps [begin, end), which only other warpgroups read.
template <class Traits>
__device__ inline void drain_stages(const SharedStorage<Traits>& storage, PipelineState<Traits::kStages>& pipeline,
                                    int begin, int end) {
  for (int step = begin; step < end; ++step) {
    barrier_wait(pipeline.barrier(storage.full()), pipeline.parity());
    release(pipeline.barrier(storage.empty()));
    pipeline.next();
  }
}

// A warp's 16 rows of an accumulator, times factor, as bf16 to the tokens that token(row) names, through the warp's own
// rows of a tile that nobody reads any more. kAdd: to what is there. rows: how many the tile has; first: the warp's
// first.
template <class T, bool kAdd = false, int kD, class Token>
__device__ inline void scatter(const float (&acc)[kD], const float (&factor)[2], uint32_t tile, int first, int rows,
                               int head, const HeadRows& to, const AttentionParams& p, const Token& token) {
  const int lane = threadIdx.x % 32;
  const uint32_t corner = T::at(tile, first + lane % 16, lane / 16);
  __syncwarp();  // whatever the warp scattered before has left
#pragma unroll
  for (int k = 0; k < kD / 8; ++k) {
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[i] = pack_bf16(acc[8 * k + 2 * i] * factor[i % 2], acc[8 * k + 2 * i + 1] * factor[i % 2]);
    stmatrix(T::step(corner, 0, 2 * k), packed);
  }
  __syncwarp();
  constexpr int kRowsAtOnce = 32 / T::kChunks;
  const int chunk = lane % T::kChunks;
  __nv_bfloat16* data = to.data + head / p.H * to.batch_stride + head % p.H * to.head_stride + chunk * 8;
#pragma unroll
  for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
    const int row = first + i * kRowsAtOnce + lane / T::kChunks;
    if (row >= rows || chunk * 8 >= p.D) continue;
    __nv_bfloat16* at = data + token(row) * to.row_stride;
    uint4 v = load_chunk(T::at(tile, row, chunk));
    if (kAdd) v = sum_of(v, load_coherent(at));
    store_global(at, v);
  }
}

}  // namespace scfa::gpu::sm90

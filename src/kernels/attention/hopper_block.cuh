// How a block of the Hopper kernels works, after FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608): warpgroup 0
// gathers rows from token order into a ring of stages, the others compute, 64 rows of a tile each. Barriers in shared
// memory pass stages and tiles back and forth, so that copies for the next steps, and for the next tile, run beside the
// products, and the warpgroups that compute need not keep step with each other.
#pragma once
#include "kernels/attention/attention_tiles.cuh"
#include "kernels/attention/wgmma_sm90.cuh"

namespace scfa::gpu::sm90 {

// How a kernel cuts its work: tiles of 64 rows a computing warpgroup, kOwn operands of the tile's own rows in kSlots
// slots (with two, the next tile is fetched while this one is computed), two operands of kStep rows of the other side a
// stage. kGather and kCompute: registers a thread of either kind may use. kExtra: bytes of shared memory besides.
template <int kD_, int kGroups_, int kOwn_, int kTileStages_, int kStep_, int kStages_, int kGather_, int kCompute_,
          int kExtra_ = 0>
struct Shape {
  static constexpr int kD = kD_, kGroups = kGroups_, kOwn = kOwn_, kTileStages = kTileStages_, kStep = kStep_,
                       kStages = kStages_;
  static constexpr int kGather = kGather_, kCompute = kCompute_, kExtra = kExtra_;
  static constexpr int kRows = 64 * kGroups, kThreads = kGroup * (1 + kGroups);
  // Of sums that blocks share: when a stage is gathered, those of so many steps before are added to. Consumers add
  // those of a step when they have released the next one's stage.
  static constexpr int kTold = kStages + 2;
  static_assert((kGather + kGroups * kCompute) * kGroup <= 65536 && kTileStages <= 2);
  using Own = Tile<kRows, kD>;
  using Other = Tile<kStep, kD>;
};

// What the warpgroups that compute know of a tile. They read it where they need it, by address: registers are few.
template <class S>
struct Slot {
  int head, rows;  // head < 0: no tile is left
  int begin, end;  // rows of the other side that the tile meets
  // Where a block takes a whole segment: the tile's number in it, whether it is the last, where the segment's queries
  // start in the sorted lists, and the first of them that sees any key, rounded down to a step.
  int number, last, queries, first_seen;
  // Where tiles of a segment's keys are taken by several blocks: the first query that sees the next tile, where in the
  // ring of sums of dq the segment's first block lies, how often the ring has gone round before, the tile's number.
  int next, place, use, tile;
  alignas(16) int tokens[S::kRows];
  alignas(16) int bounds[S::kRows];  // num_visible_keys or first_query of the rows; zero past them
};
template <class S>
struct SlotView {
  uint32_t at;
  __device__ int head() const { return load_int(at); }
  __device__ int rows() const { return load_int(at + offsetof(Slot<S>, rows)); }
  __device__ int begin() const { return load_int(at + offsetof(Slot<S>, begin)); }
  __device__ int end() const { return load_int(at + offsetof(Slot<S>, end)); }
  __device__ int number() const { return load_int(at + offsetof(Slot<S>, number)); }
  __device__ int last() const { return load_int(at + offsetof(Slot<S>, last)); }
  __device__ int queries() const { return load_int(at + offsetof(Slot<S>, queries)); }
  __device__ int first_seen() const { return load_int(at + offsetof(Slot<S>, first_seen)); }
  __device__ uint32_t order() const { return at + offsetof(Slot<S>, next); }
  __device__ int token(int row) const { return load_int(at + offsetof(Slot<S>, tokens) + 4 * row); }
  __device__ uint32_t bounds(int row) const { return at + offsetof(Slot<S>, bounds) + 4 * row; }
  __device__ int bound(int row) const { return load_int(bounds(row)); }
};

// Parts of the other side's index list that are on their way or in use; one a step.
constexpr int kIndexAhead = 4;

// Addresses within a block's shared memory.
template <class S>
class Memory {
  struct Barriers {
    uint64_t entry_full[2], tile_full[2], tile_empty[2], full[S::kStages], empty[S::kStages];
    uint64_t exchange_full[S::kGroups], exchange_empty[S::kGroups];
    int fuses_norm;
  };
  static constexpr int kStageStart = S::kTileStages * S::kOwn * S::Own::kBytes;
  static constexpr int kExtraStart = kStageStart + S::kStages * 2 * S::Other::kBytes;
  static constexpr int kSlotStart = kExtraStart + S::kExtra;
  static constexpr int kOwnStatisticsStart = kSlotStart + S::kTileStages * static_cast<int>(sizeof(Slot<S>));
  static constexpr int kStatisticsStart = kOwnStatisticsStart + S::kTileStages * S::kRows * 8;
  static constexpr int kIndexStart = kStatisticsStart + S::kStages * S::kStep * 8;
  static constexpr int kEntryStart = kIndexStart + kIndexAhead * S::kStep * 4;
  static constexpr int kBarrierStart = kEntryStart + 2 * 16 * kEntryWords;

 public:
  static constexpr int kBytes = kBarrierStart + static_cast<int>(sizeof(Barriers)) + 1024;  // to align
  static_assert(kBytes <= 232448);

  __device__ Memory() {
    extern __shared__ unsigned char shared[];
    base_ = (shared_address(shared) + 1023u) & ~1023u;
  }
  __device__ uint32_t own(int slot, int which) const { return base_ + (slot * S::kOwn + which) * S::Own::kBytes; }
  __device__ uint32_t other(int stage, int which) const {
    return base_ + kStageStart + (stage * 2 + which) * S::Other::kBytes;
  }
  __device__ uint32_t extra() const { return base_ + kExtraStart; }
  __device__ uint32_t slot(int i) const { return base_ + kSlotStart + i * static_cast<int>(sizeof(Slot<S>)); }
  // In backward, 4 bytes each: of a tile's own rows, keys, 1 / |q| of the same token; of a stage's, queries, lse, and
  // behind those of all its rows delta.
  __device__ uint32_t own_statistics(int slot) const { return base_ + kOwnStatisticsStart + slot * S::kRows * 8; }
  __device__ uint32_t statistics(int stage) const { return base_ + kStatisticsStart + stage * S::kStep * 8; }
  __device__ uint32_t index(int i) const { return base_ + kIndexStart + i * S::kStep * 4; }
  __device__ uint32_t entry(int i) const { return base_ + kEntryStart + 16 * kEntryWords * i; }
  __device__ uint32_t entry_full() const { return base_ + kBarrierStart + offsetof(Barriers, entry_full); }
  __device__ uint32_t tile_full() const { return base_ + kBarrierStart + offsetof(Barriers, tile_full); }
  __device__ uint32_t tile_empty() const { return base_ + kBarrierStart + offsetof(Barriers, tile_empty); }
  __device__ uint32_t full() const { return base_ + kBarrierStart + offsetof(Barriers, full); }
  __device__ uint32_t empty() const { return base_ + kBarrierStart + offsetof(Barriers, empty); }

  // Of the buffers in which warpgroups exchange what they computed; each is read by one of them.
  __device__ uint32_t exchange_full() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_full); }
  __device__ uint32_t exchange_empty() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_empty); }

  // In backward: whether dq takes in what goes through normalised keys. Only where a row is in the same segment as
  // query and as key are the rows of a tile of keys also queries of its segment.
  __device__ bool fuses_norm() const { return load_int(base_ + kBarrierStart + offsetof(Barriers, fuses_norm)) != 0; }

  // By all threads of the block.
  __device__ void make_barriers(bool fuses = false) const {
    if (threadIdx.x == 0) {
      store_int(base_ + kBarrierStart + offsetof(Barriers, fuses_norm), fuses ? 1 : 0);
      for (int i = 0; i < 2; ++i) {
        barrier_init(entry_full() + 8 * i, 1);
        barrier_init(tile_full() + 8 * i, kGroup + 1);  // every thread's copies, and the slot
        barrier_init(tile_empty() + 8 * i, 4 * S::kGroups);
      }
      for (int i = 0; i < S::kStages; ++i) {
        barrier_init(full() + 8 * i, kGroup);
        barrier_init(empty() + 8 * i, 4 * S::kGroups);
      }
      for (int i = 0; i < S::kGroups; ++i) {
        barrier_init(exchange_full() + 8 * i, 4 * S::kGroups);
        barrier_init(exchange_empty() + 8 * i, 4);
      }
      barriers_are_made();
    }
    __syncthreads();
  }

 private:
  uint32_t base_;
};

// By each warp that computes.
[[maybe_unused]] __device__ inline void release(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// ---- computing ------------------------------------------------------------------------------------------------------

// Steps through the rows of the other side that a tile meets. Every second tile of a segment that a block takes whole
// goes backwards: what the L2 cache still holds comes first.
struct Steps {
  int first, count, step;
  __device__ Steps(int begin, int end, int size, bool backwards)
      : first(begin), count((max(end - begin, 0) + size - 1) / size), step(size) {
    if (backwards) first = begin + (count - 1) * size, step = -size;
  }
  __device__ int at(int i) const { return first + i * step; }
};

// Waits for and releases the stages of steps [begin, end), which only other warpgroups read.
template <class S>
__device__ inline void drain_stages(const Memory<S>& memory, PipelineState<S::kStages>& pipeline, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    barrier_wait(pipeline.barrier(memory.full()), pipeline.parity());
    release(pipeline.barrier(memory.empty()));
    pipeline.next();
  }
}

// A warp's 16 rows of an accumulator, times factor, as bf16 to the tokens that token(row) names, through the warp's own
// rows of a tile that nobody reads any more. kAdd: to what is there. rows: how many the tile has; first: the warp's
// first.
template <class T, bool kAdd = false, int kD, class Token>
__device__ inline void scatter(const float (&acc)[kD], const float (&factor)[2], uint32_t tile, int first, int rows,
                               int head, const HeadRows& to, const Problem& p, const Token& token) {
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
  __nv_bfloat16* data = to.data + head / p.H * to.batch + head % p.H * to.head + chunk * 8;
#pragma unroll
  for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
    const int row = first + i * kRowsAtOnce + lane / T::kChunks;
    if (row >= rows || chunk * 8 >= p.D) continue;
    __nv_bfloat16* at = data + token(row) * to.token;
    uint4 v = load_chunk(T::at(tile, row, chunk));
    if (kAdd) v = sum_of(v, load_coherent(at));
    store_global(at, v);
  }
}

}  // namespace scfa::gpu::sm90

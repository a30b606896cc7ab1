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
template <int kD_, int kGroups_, int kOwn_, int kSlots_, int kStep_, int kStages_, int kGather_, int kCompute_,
          int kExtra_ = 0>
struct Shape {
  static constexpr int kD = kD_, kGroups = kGroups_, kOwn = kOwn_, kSlots = kSlots_, kStep = kStep_, kStages = kStages_;
  static constexpr int kGather = kGather_, kCompute = kCompute_, kExtra = kExtra_;
  static constexpr int kRows = 64 * kGroups, kThreads = kGroup * (1 + kGroups);
  static_assert((kGather + kGroups * kCompute) * kGroup <= 65536 && kSlots <= 2);
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
  alignas(16) int tokens[S::kRows];
  alignas(16) int bounds[S::kRows];  // k_limit or q_first of the rows; zero past them
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
  };
  static constexpr int kStageStart = S::kSlots * S::kOwn * S::Own::kBytes;
  static constexpr int kExtraStart = kStageStart + S::kStages * 2 * S::Other::kBytes;
  static constexpr int kSlotStart = kExtraStart + S::kExtra;
  static constexpr int kOwnStatisticsStart = kSlotStart + S::kSlots * static_cast<int>(sizeof(Slot<S>));
  static constexpr int kStatisticsStart = kOwnStatisticsStart + S::kSlots * S::kRows * 8;
  static constexpr int kIndexStart = kStatisticsStart + S::kStages * S::kStep * 8;
  static constexpr int kEntryStart = kIndexStart + kIndexAhead * S::kStep * 4;
  static constexpr int kBarrierStart = kEntryStart + 2 * 32;

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
  // lse and delta, side by side, of a tile's own rows or of a stage's, where those are queries in backward.
  // Of keys: 1 / |q| of the same token, 4 bytes each.
  __device__ uint32_t own_statistics(int slot) const { return base_ + kOwnStatisticsStart + slot * S::kRows * 8; }
  __device__ uint32_t statistics(int stage) const { return base_ + kStatisticsStart + stage * S::kStep * 8; }
  __device__ uint32_t index(int i) const { return base_ + kIndexStart + i * S::kStep * 4; }
  __device__ uint32_t entry(int i) const { return base_ + kEntryStart + 32 * i; }
  __device__ uint32_t entry_full() const { return base_ + kBarrierStart + offsetof(Barriers, entry_full); }
  __device__ uint32_t tile_full() const { return base_ + kBarrierStart + offsetof(Barriers, tile_full); }
  __device__ uint32_t tile_empty() const { return base_ + kBarrierStart + offsetof(Barriers, tile_empty); }
  __device__ uint32_t full() const { return base_ + kBarrierStart + offsetof(Barriers, full); }
  __device__ uint32_t empty() const { return base_ + kBarrierStart + offsetof(Barriers, empty); }

  // Of the buffers in which warpgroups exchange what they computed; each is read by one of them.
  __device__ uint32_t exchange_full() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_full); }
  __device__ uint32_t exchange_empty() const { return base_ + kBarrierStart + offsetof(Barriers, exchange_empty); }

  // By all threads of the block.
  __device__ void make_barriers() const {
    if (threadIdx.x == 0) {
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

// ---- gathering ------------------------------------------------------------------------------------------------------

enum class Side { kQueries, kKeys };  // whose rows a tile's own are

// Rows of one head: where a lane's 16 bytes of row 0 are, and how far apart rows lie.
struct Source {
  const char* lane;
  uint32_t stride;
  __device__ Source(const HeadRows& rows, int head, int H, int chunk)
      : lane(reinterpret_cast<const char*>(rows.data + head / H * rows.batch + head % H * rows.head + chunk * 8)),
        stride(static_cast<uint32_t>(rows.token) * 2) {}
};

// A gathering warp's quarter of a tile of kRows rows. Rows of one instruction differ from those of the next by a
// multiple that leaves addresses a constant and an xor apart.
template <int kRows, int kD>
struct Quarter {
  static constexpr int kMine = kRows / 4, kChunks = kD / 8, kAtOnce = 32 / kChunks;
  static_assert(kMine % 16 == 0);
  __device__ static int first() { return here(threadIdx.x / 32) * kMine; }

  // token(i): which the lane's row of those from row i of the quarter on is; negative for zeros. inside: whether the
  // lane's 16 bytes are within a row.
  template <int kOperands, class Token>
  __device__ static void copy(const uint32_t (&tiles)[kOperands], const Source* const (&from)[kOperands], bool inside,
                              const Token& token) {
    const int lane = threadIdx.x % 32;
    const uint32_t corner = Tile<kRows, kD>::at(0, first() + lane / kChunks, lane % kChunks);
#pragma unroll
    for (int row = 0; row < kMine; row += kAtOnce) {
      const int t = token(row);
      const bool valid = inside && t >= 0;
      const uint32_t to = (corner ^ ((row & 7) << 4)) + row * 128;
#pragma unroll
      for (int o = 0; o < kOperands; ++o)
        copy_async<16>(tiles[o] + to,
                       from[o]->lane + (valid ? static_cast<uint64_t>(static_cast<uint32_t>(t)) * from[o]->stride : 0),
                       valid);
    }
  }
};

// The tokens of a quarter of a tile's own rows: a lane holds those of one row in 32 and passes them on by shuffles.
template <int kRows, int kD>
class OwnTokens {
  using Q = Quarter<kRows, kD>;
  static constexpr int kWords = (Q::kMine + 31) / 32;

 public:
  __device__ OwnTokens(const int* index, int rows) {
    const int lane = threadIdx.x % 32, first = static_cast<int>(threadIdx.x / 32) * Q::kMine + lane;
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      token_[i] = lane + 32 * i < Q::kMine && first + 32 * i < rows ? index[first + 32 * i] : -1;
  }
  __device__ int operator()(int row) const {
    return __shfl_sync(0xFFFFFFFFu, token_[row / 32], row % 32 + threadIdx.x % 32 / Q::kChunks);
  }
  // Calls work(row, token) for the rows whose tokens the lane holds.
  template <class Work>
  __device__ void for_each(const Work& work) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      if (token_[i] >= 0) work(static_cast<int>(threadIdx.x / 32) * Q::kMine + 32 * i + threadIdx.x % 32, token_[i]);
  }

 private:
  int token_[kWords];
};

// Brings what an entry's lists begin with into the L2 cache, so that nobody waits for it long when its turn has come.
template <bool kQueries, bool kWhole>
__device__ inline void prefetch_lists(const Problem& p, uint32_t entry) {
  if (load_int(entry) < 0) return;
  const auto prefetch = [](const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
  const int own = load_int(entry + (kWhole ? 20 : 16)), other = load_int(entry + (kWhole ? 16 : 20));
  const int own_rows = load_int(entry + 12), others = kWhole ? load_int(entry + 8) : load_int(entry + 28);
  const int row = static_cast<int>(threadIdx.x) * 32, begin = kWhole || kQueries ? 0 : load_int(entry + 24);
  if (row < own_rows) {
    prefetch((kQueries ? p.q_index : p.k_index) + own + row);
    prefetch((kQueries ? p.k_limit : p.q_first) + own + row);
  }
  if (begin + row < others) {
    prefetch((kQueries ? p.k_index : p.q_index) + other + begin + row);
    if (!kQueries) {
      prefetch(p.statistics + other + begin + row);
      prefetch(p.statistics + other + min(begin + row + 16, others - 1));
    }
  }
}

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

// What warpgroup 0 does. first and second are the other side's two operands: k and v, or q and dout. kWhole: entries
// are whole segments, whose tiles of keys are taken one after the other.
template <class S, Side kSide, bool kStatistics, bool kWhole = false>
__device__ inline void gather(const Problem& p, const Memory<S>& memory, int list, const HeadRows& own0,
                              const HeadRows& own1, const HeadRows& first, const HeadRows& second) {
  constexpr bool kQueries = kSide == Side::kQueries;
  static_assert(!kWhole || !kQueries);
  constexpr int kStep = S::kStep;
  using Rows = Quarter<kStep, S::kD>;
  Ring<S::kSlots> slots;
  Ring<S::kStages> ring;
  Ring<2> entries;
  int index = 0;  // which part of the index list comes next
  const int lane = threadIdx.x % 32, chunk = lane % (S::kD / 8);
  const bool inside = chunk * 8 < p.D;
  // Thread 0 asks for a ticket two entries ahead and has the entry copied one ahead, so that nobody waits for either.
  int ticket = threadIdx.x == 0 ? atomicAdd(p.ticket, 1) : 0;
  const auto look_ahead = [&](int to) {
    if (threadIdx.x != 0) return;
    const uint32_t entry = memory.entry(to);
    if (ticket < p.tile_count[list]) {
      copy_async<16>(entry, p.tiles + 2 * ticket, true);
      copy_async<16>(entry + 16, p.tiles + 2 * ticket + 1, true);
    } else {
      store_int(entry, -1);
    }
    barrier_arrive_copied(memory.entry_full() + 8 * to);
    ticket = atomicAdd(p.ticket, 1);
  };
  look_ahead(0);
  for (;; entries.next()) {
    sync_threads(1, kGroup);  // all have read the entry before the last one
    barrier_wait(entries.barrier(memory.entry_full()), entries.parity());
    look_ahead(entries.stage ^ 1);
    const uint4 tile_words = load_chunk(memory.entry(entries.stage)),
                where_words = load_chunk(memory.entry(entries.stage) + 16);
    const int4 tile = reinterpret_cast<const int4&>(tile_words), where = reinterpret_cast<const int4&>(where_words);
    if (tile.x < 0) {
      barrier_wait(slots.barrier(memory.tile_empty()), slots.parity() ^ 1);
      const uint32_t tile_full = slots.barrier(memory.tile_full());
      if (threadIdx.x == 0) {
        store_int(memory.slot(slots.stage), -1);
        barrier_arrive(tile_full);
      }
      barrier_arrive(tile_full);
      break;
    }
    const int tiles = kWhole ? max((tile.w + S::kRows - 1) / S::kRows, 1) : 1;
    const int* other_index = (kQueries ? p.k_index : p.q_index) + (kWhole ? where.x : where.y);
    const int end = kWhole ? tile.z : where.w;
    int first_seen = 0;
#pragma unroll 1
    for (int number = 0; number < tiles; ++number) {
      const int own_at = kWhole ? where.y + number * S::kRows : where.x;
      const int rows = kWhole ? min(S::kRows, tile.w - number * S::kRows) : tile.w;
      const int* own_index = (kQueries ? p.q_index : p.k_index) + own_at;
      const OwnTokens<S::kRows, S::kD> own(own_index, rows);
      int begin = where.z / kStep * kStep;
      // A segment without keys has no steps, and none of its queries sees any.
      if (kWhole) begin = (rows > 0 ? p.q_first[own_at] : end + kStep - 1) / kStep * kStep;
      if (number == 0) first_seen = begin;
      const Steps steps(begin, end, kStep, kWhole && number % 2 != 0);
      // A part of the index list comes while the three before it are used. By groups of copies: part i is in the one
      // before the last two when step i's turn has come.
      const auto fetch_index = [&](int i) {
        const int mine = Rows::first() + lane, row = steps.at(i) + mine;  // the warp alone uses it
        if (i < steps.count && lane < Rows::kMine && row < end)
          copy_async<4>(memory.index((index + i) % kIndexAhead) + 4 * mine, other_index + row, true);
        commit_copies();
      };
#pragma unroll
      for (int i = 0; i < kIndexAhead - 1; ++i) fetch_index(i);
      {
        const uint32_t tile_full = slots.barrier(memory.tile_full());
        const int* bounds = (kQueries ? p.k_limit : p.q_first) + own_at;
        const Source from0(own0, tile.x, p.H, chunk), from1(own1, tile.x, p.H, chunk);
        barrier_wait(slots.barrier(memory.tile_empty()), slots.parity() ^ 1);
        if constexpr (S::kOwn == 2)
          Quarter<S::kRows, S::kD>::template copy<2>({memory.own(slots.stage, 0), memory.own(slots.stage, 1)},
                                                     {&from0, &from1}, inside, own);
        else
          Quarter<S::kRows, S::kD>::template copy<1>({memory.own(slots.stage, 0)}, {&from0}, inside, own);
        if (kStatistics && !kQueries && p.inverse_norm != nullptr) {
          const float* norms = p.inverse_norm + tile.x / p.H * int64_t{p.T} * p.H + tile.x % p.H;
          own.for_each([&](int row, int token) {
            copy_async<4>(memory.own_statistics(slots.stage) + 4 * row, norms + int64_t{token} * p.H, true);
          });
        }
        const uint32_t slot = memory.slot(slots.stage);
        const uint32_t tokens = slot + offsetof(Slot<S>, tokens), limits = slot + offsetof(Slot<S>, bounds);
#pragma unroll
        for (int i = 0; i < (S::kRows + kGroup - 1) / kGroup; ++i) {
          const int row = i * kGroup + static_cast<int>(threadIdx.x);
          if (S::kRows % kGroup != 0 && row >= S::kRows) break;
          const bool valid = row < rows;
          copy_async<4>(tokens + 4 * row, own_index + (valid ? row : 0), valid);
          copy_async<4>(limits + 4 * row, bounds + (valid ? row : 0), valid);
          if (kStatistics && kQueries)
            copy_async<8>(memory.own_statistics(slots.stage) + 8 * row, p.statistics + own_at + (valid ? row : 0),
                          valid);
        }
        barrier_arrive_copied(tile_full);
        if (threadIdx.x == 0) {
          const auto word = [](int x) { return static_cast<uint32_t>(x); };
          store_chunk(slot, make_uint4(word(tile.x), word(rows), word(begin), word(end)));
          if (kWhole)
            store_chunk(slot + 16,
                        make_uint4(word(number), word(number + 1 == tiles), word(where.x), word(first_seen)));
          barrier_arrive(tile_full);
        }
      }
      const Source from0(first, tile.x, p.H, chunk), from1(second, tile.x, p.H, chunk);
#pragma unroll 1
      for (int i = 0; i < steps.count; ++i) {
        if (number + 1 == tiles && i + 1 == steps.count) {
          Ring<2> next = entries;
          next.next();
          barrier_wait(next.barrier(memory.entry_full()), next.parity());
          prefetch_lists<kQueries, kWhole>(p, memory.entry(next.stage));
        }
        wait_copies<kIndexAhead - 2>();
        __syncwarp();
        const int at = steps.at(i), left = end - at - Rows::first() - lane / Rows::kChunks;
        const uint32_t part = memory.index((index + i) % kIndexAhead) + 4 * (Rows::first() + lane / Rows::kChunks);
        barrier_wait(ring.barrier(memory.empty()), ring.parity() ^ 1);
        Rows::template copy<2>({memory.other(ring.stage, 0), memory.other(ring.stage, 1)}, {&from0, &from1}, inside,
                               [&](int row) { return row < left ? load_int(part + 4 * row) : -1; });
        if (kStatistics && !kQueries && threadIdx.x < kStep) {
          const int query = at + static_cast<int>(threadIdx.x);
          copy_async<8>(memory.statistics(ring.stage) + threadIdx.x * 8,
                        p.statistics + (kWhole ? where.x : where.y) + min(query, end - 1), query < end);
        }
        barrier_arrive_copied(ring.barrier(memory.full()));
        __syncwarp();  // the part that was used before may be overwritten
        fetch_index(i + kIndexAhead - 1);
        ring.next();
      }
      index = (index + steps.count) % kIndexAhead;
      slots.next();
    }
  }
  wait_copies<0>();
}

// ---- computing ------------------------------------------------------------------------------------------------------

// Steps [begin, end) that only other warpgroups need.
template <class S>
__device__ inline void skip_steps(const Memory<S>& memory, Ring<S::kStages>& ring, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    barrier_wait(ring.barrier(memory.full()), ring.parity());
    release(ring.barrier(memory.empty()));
    ring.next();
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
    store_matrices(T::step(corner, 0, 2 * k), packed);
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
    if (kAdd) {
      const uint4 before = load_global(at);
      v = {add_bf16(v.x, before.x), add_bf16(v.y, before.y), add_bf16(v.z, before.z), add_bf16(v.w, before.w)};
    }
    store_global(at, v);
  }
}

}  // namespace scfa::gpu::sm90

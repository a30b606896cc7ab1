// What the gathering warpgroup of a Hopper kernel does: rows from token order into the ring of stages.
#pragma once
#include "kernels/attention/hopper_ring.cuh"

namespace scfa::gpu::sm90 {

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
  static_assert(kMine % 8 == 0);
  __device__ static int first() { return opaque(threadIdx.x / 32) * kMine; }

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
// kWhole: of a whole segment; otherwise of a tile of queries.
template <bool kWhole>
__device__ inline void prefetch_lists(const Problem& p, uint32_t entry) {
  if (load_int(entry) < 0) return;
  const auto prefetch = [](const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
  const int own = load_int(entry + (kWhole ? 20 : 16)), other = load_int(entry + (kWhole ? 16 : 20));
  const int own_rows = load_int(entry + 12), others = kWhole ? load_int(entry + 8) : load_int(entry + 28);
  const int row = static_cast<int>(threadIdx.x) * 32;
  if (row < own_rows) {
    prefetch((kWhole ? p.k_index : p.q_index) + own + row);
    prefetch((kWhole ? p.first_query : p.num_visible_keys) + own + row);
  }
  if (row < others) {
    prefetch((kWhole ? p.q_index : p.k_index) + other + row);
    if (kWhole) {
      prefetch(p.statistics + other + row);
      prefetch(p.statistics + other + min(row + 16, others - 1));
    }
  }
}

// What warpgroup 0 does. first and second are the other side's two operands: k and v, or q and dout. kWhole: entries
// are whole segments, whose tiles of keys are taken one after the other.
template <class S, Side kSide, bool kWhole = false>
__device__ inline void gather(const Problem& p, const Memory<S>& memory, int list, const HeadRows& own0,
                              const HeadRows& own1, const HeadRows& first, const HeadRows& second) {
  constexpr bool kQueries = kSide == Side::kQueries;
  static_assert(!kWhole || !kQueries);
  constexpr int kStep = S::kStep;
  using Rows = Quarter<kStep, S::kD>;
  PipelineState<S::kTileStages> tile_pipeline;
  PipelineState<S::kStages> pipeline;
  PipelineState<2> entries;
  int index = 0;  // which part of the index list comes next
  const int lane = threadIdx.x % 32, chunk = lane % (S::kD / 8);
  const bool inside = chunk * 8 < p.D;
  // Thread 0 asks for a ticket two entries ahead and has the entry copied one ahead, so that nobody waits for either.
  // Where blocks share sums, tiles should be begun in the order of the tickets: then they are drawn as late as the ring
  // of stages allows.
  constexpr bool kShared = !kQueries && !kWhole;
  int ticket = 0;
  const auto draw = [&] {
    if (threadIdx.x == 0) ticket = atomicAdd(p.ticket, 1);
  };
  const auto look_up = [&](int to) {
    if (threadIdx.x != 0) return;
    const uint32_t entry = memory.entry(to);
    if (ticket < p.tile_count[list]) {
#pragma unroll
      for (int i = 0; i < kEntryWords; ++i)
        copy_async<16>(entry + 16 * i, p.tiles + int64_t{kEntryWords} * ticket + i, true);
    } else {
      store_int(entry, -1);
    }
    barrier_arrive_copied(memory.entry_full() + 8 * to);
  };
  draw();
  look_up(0);
  if (!kShared) draw();
  for (;; entries.next()) {
    sync_threads(1, kGroup);  // all have read the entry before the last one
    barrier_wait(entries.barrier(memory.entry_full()), entries.parity());
    if (!kShared) look_up(entries.stage ^ 1), draw();
    const uint4 tile_words = load_chunk(memory.entry(entries.stage)),
                where_words = load_chunk(memory.entry(entries.stage) + 16);
    const int4 tile = reinterpret_cast<const int4&>(tile_words), where = reinterpret_cast<const int4&>(where_words);
    if (tile.x < 0) {
      barrier_wait(tile_pipeline.barrier(memory.tile_empty()), tile_pipeline.parity() ^ 1);
      const uint32_t tile_full = tile_pipeline.barrier(memory.tile_full());
      if (threadIdx.x == 0) {
        store_int(memory.slot(tile_pipeline.stage), -1);
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
      if (kWhole) begin = (rows > 0 ? p.first_query[own_at] : end + kStep - 1) / kStep * kStep;
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
        const uint32_t tile_full = tile_pipeline.barrier(memory.tile_full());
        const int* bounds = (kQueries ? p.num_visible_keys : p.first_query) + own_at;
        const Source from0(own0, tile.x, p.H, chunk), from1(own1, tile.x, p.H, chunk);
        barrier_wait(tile_pipeline.barrier(memory.tile_empty()), tile_pipeline.parity() ^ 1);
        if constexpr (S::kOwn == 2)
          Quarter<S::kRows, S::kD>::template copy<2>(
              {memory.own(tile_pipeline.stage, 0), memory.own(tile_pipeline.stage, 1)}, {&from0, &from1}, inside, own);
        else
          Quarter<S::kRows, S::kD>::template copy<1>({memory.own(tile_pipeline.stage, 0)}, {&from0}, inside, own);
        if (!kQueries && p.inverse_norm != nullptr) {
          const float* norms = p.inverse_norm + tile.x / p.H * int64_t{p.T} * p.H + tile.x % p.H;
          own.for_each([&](int row, int token) {
            copy_async<4>(memory.own_statistics(tile_pipeline.stage) + 4 * row, norms + int64_t{token} * p.H, true);
          });
        }
        const uint32_t slot = memory.slot(tile_pipeline.stage);
        const uint32_t tokens = slot + offsetof(Slot<S>, tokens), limits = slot + offsetof(Slot<S>, bounds);
#pragma unroll
        for (int i = 0; i < (S::kRows + kGroup - 1) / kGroup; ++i) {
          const int row = i * kGroup + static_cast<int>(threadIdx.x);
          if (S::kRows % kGroup != 0 && row >= S::kRows) break;
          const bool valid = row < rows;
          copy_async<4>(tokens + 4 * row, own_index + (valid ? row : 0), valid);
          copy_async<4>(limits + 4 * row, bounds + (valid ? row : 0), valid);
        }
        barrier_arrive_copied(tile_full);
        if (threadIdx.x == 0) {
          const auto word = [](int x) { return static_cast<uint32_t>(x); };
          store_chunk(slot, make_uint4(word(tile.x), word(rows), word(begin), word(end)));
          if (kWhole)
            store_chunk(slot + 16,
                        make_uint4(word(number), word(number + 1 == tiles), word(where.x), word(first_seen)));
          if (!kWhole && !kQueries) {
            const uint32_t order = memory.entry(entries.stage) + 32;
            const int next = load_int(order), place = load_int(order + 4);
            const int number = tile.z / S::kRows;
            store_chunk(slot + 16, make_uint4(word(number), 0, word(where.y), 0));
            store_chunk(slot + 32, make_uint4(word(next / kStep * kStep), word(place % p.ring_blocks),
                                              word(place / p.ring_blocks), word(number)));
          }
          barrier_arrive(tile_full);
        }
      }
      const Source from0(first, tile.x, p.H, chunk), from1(second, tile.x, p.H, chunk);
#pragma unroll 1
      for (int i = 0; i < steps.count; ++i) {
        const bool last = number + 1 == tiles && i + 1 == steps.count;
        if (kShared && last) draw();
        if (!kShared && last) {
          PipelineState<2> next = entries;
          next.next();
          barrier_wait(next.barrier(memory.entry_full()), next.parity());
          prefetch_lists<kWhole>(p, memory.entry(next.stage));
        }
        wait_copies<kIndexAhead - 2>();
        __syncwarp();
        const int at = steps.at(i), left = end - at - Rows::first() - lane / Rows::kChunks;
        const uint32_t part = memory.index((index + i) % kIndexAhead) + 4 * (Rows::first() + lane / Rows::kChunks);
        barrier_wait(pipeline.barrier(memory.empty()), pipeline.parity() ^ 1);
        Rows::template copy<2>({memory.other(pipeline.stage, 0), memory.other(pipeline.stage, 1)}, {&from0, &from1},
                               inside, [&](int row) { return row < left ? load_int(part + 4 * row) : -1; });
        if (!kQueries && threadIdx.x < kStep) {
          const int query = at + static_cast<int>(threadIdx.x);
          const float2* statistics = p.statistics + (kWhole ? where.x : where.y) + min(query, end - 1);
          const uint32_t to = memory.statistics(pipeline.stage) + threadIdx.x * 4;
          copy_async<4>(to, &statistics->x, query < end);
          copy_async<4>(to + 4 * kStep, &statistics->y, query < end);
        }
        barrier_arrive_copied(pipeline.barrier(memory.full()));
        if (kShared && last) look_up(entries.stage ^ 1);
        if (kShared && i >= S::kTold && static_cast<int>(threadIdx.x) % kGroup == i % 4 * 32) {
          // Its sums are added to: those who added have released a later stage since.
          const int place = load_int(memory.entry(entries.stage) + 36);
          RingBlock(p, place % p.ring_blocks, place / p.ring_blocks, begin / kStep + i - S::kTold)
              .tell(p, tile.z / S::kRows, memory.fuses_norm());
        }
        __syncwarp();  // the part that was used before may be overwritten
        fetch_index(i + kIndexAhead - 1);
        pipeline.next();
      }
      if (kShared && steps.count == 0) draw(), look_up(entries.stage ^ 1);
      index = (index + steps.count) % kIndexAhead;
      tile_pipeline.next();
    }
  }
  wait_copies<0>();
}

}  // namespace scfa::gpu::sm90

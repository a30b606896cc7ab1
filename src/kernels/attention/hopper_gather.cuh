// The producer warpgroup of a Hopper kernel: it gathers rows from token order into the stages of the pipeline.
#pragma once
#include "kernels/attention/hopper_ring.cuh"

namespace scfa::gpu::sm90 {

enum class Side { kQueries, kKeys };  // which rows the outer tile has

// Rows of one head: where a lane's 16 bytes of row 0 are, and how far apart rows lie.
struct Source {
  const char* lane;
  uint32_t stride;
  __device__ Source(const HeadRows& rows, int head, int H, int chunk)
      : lane(reinterpret_cast<const char*>(rows.data + head / H * rows.batch_stride + head % H * rows.head_stride +
                                           chunk * 8)),
        stride(static_cast<uint32_t>(rows.row_stride) * 2) {}
};

// A producer warp's quarter of a tile of kRows rows. Rows of one instruction differ from those of the next by a
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

// The tokens of a quarter of the outer rows: a lane holds those of one row in 32 and passes them on by shuffles.
template <int kRows, int kD>
class OuterTokens {
  using Q = Quarter<kRows, kD>;
  static constexpr int kWords = (Q::kMine + 31) / 32;

 public:
  __device__ OuterTokens(const int* index, int rows) {
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

// Prefetches what the lists of the next entry begin with into the L2 cache. kWhole: the entry is a whole segment,
// otherwise a query tile.
template <bool kWhole>
__device__ inline void prefetch_lists(const AttentionParams& p, uint32_t entry) {
  if (load_int(entry) < 0) return;
  const auto prefetch = [](const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
  const int outer = load_int(entry + (kWhole ? 20 : 16)), inner = load_int(entry + (kWhole ? 16 : 20));
  const int outer_rows = load_int(entry + 12), inner_rows = kWhole ? load_int(entry + 8) : load_int(entry + 28);
  const int row = static_cast<int>(threadIdx.x) * 32;
  if (row < outer_rows) {
    prefetch((kWhole ? p.k_index : p.q_index) + outer + row);
    prefetch((kWhole ? p.first_query : p.num_visible_keys) + outer + row);
  }
  if (row < inner_rows) {
    prefetch((kWhole ? p.q_index : p.k_index) + inner + row);
    if (kWhole) {
      prefetch(p.statistics + inner + row);
      prefetch(p.statistics + inner + min(row + 16, inner_rows - 1));
    }
  }
}

// What warpgroup 0 does. outer0 and outer1 are the operands of the outer rows: q, or k and v. inner0 and inner1 are
// those of the inner rows: k and v, or q and dout. kWhole: entries are whole segments, whose key tiles are taken one
// after the other.
template <class Traits, Side kSide, bool kWhole = false>
__device__ inline void producer_loop(const AttentionParams& p, const SharedStorage<Traits>& storage, int list,
                                     const HeadRows& outer0, const HeadRows& outer1, const HeadRows& inner0,
                                     const HeadRows& inner1) {
  constexpr bool kQueries = kSide == Side::kQueries;
  static_assert(!kWhole || !kQueries);
  constexpr int kInnerRows = Traits::kInnerRows;
  using Rows = Quarter<kInnerRows, Traits::kD>;
  PipelineState<Traits::kTileStages> tile_pipeline;
  PipelineState<Traits::kStages> pipeline;
  PipelineState<2> entries;
  int index = 0;  // which part of the index list comes next
  const int lane = threadIdx.x % 32, chunk = lane % (Traits::kD / 8);
  const bool inside = chunk * 8 < p.D;
  // Thread 0 takes a number from the tile counter two entries ahead and has the entry copied one ahead, so that nobody
  // waits for either. Where blocks share sums of dq, tiles should be begun in the order of their numbers: there the
  // number is taken as late as the pipeline of stages allows.
  constexpr bool kShared = !kQueries && !kWhole;
  int next_tile = 0;
  const auto draw = [&] {
    if (threadIdx.x == 0) next_tile = atomicAdd(p.tile_counter, 1);
  };
  const auto look_up = [&](int to) {
    if (threadIdx.x != 0) return;
    const uint32_t entry = storage.entry(to);
    if (next_tile < p.tile_count[list]) {
#pragma unroll
      for (int i = 0; i < kEntryWords; ++i)
        copy_async<16>(entry + 16 * i, p.tiles + int64_t{kEntryWords} * next_tile + i, true);
    } else {
      store_int(entry, -1);
    }
    barrier_arrive_copied(storage.entry_full() + 8 * to);
  };
  draw();
  look_up(0);
  if (!kShared) draw();
  for (;; entries.next()) {
    sync_threads(1, kGroup);  // all have read the entry before the last one
    barrier_wait(entries.barrier(storage.entry_full()), entries.parity());
    if (!kShared) look_up(entries.stage ^ 1), draw();
    const uint4 tile_words = load_chunk(storage.entry(entries.stage)),
                where_words = load_chunk(storage.entry(entries.stage) + 16);
    const int4 tile = reinterpret_cast<const int4&>(tile_words), where = reinterpret_cast<const int4&>(where_words);
    if (tile.x < 0) {
      barrier_wait(tile_pipeline.barrier(storage.tile_empty()), tile_pipeline.parity() ^ 1);
      const uint32_t tile_full = tile_pipeline.barrier(storage.tile_full());
      if (threadIdx.x == 0) {
        store_int(storage.work_tile(tile_pipeline.stage), -1);
        barrier_arrive(tile_full);
      }
      barrier_arrive(tile_full);
      break;
    }
    const int tiles = kWhole ? max((tile.w + Traits::kOuterRows - 1) / Traits::kOuterRows, 1) : 1;
    const int* inner_index = (kQueries ? p.k_index : p.q_index) + (kWhole ? where.x : where.y);
    const int end = kWhole ? tile.z : where.w;
    int first_seen = 0;
#pragma unroll 1
    for (int number = 0; number < tiles; ++number) {
      const int outer_at = kWhole ? where.y + number * Traits::kOuterRows : where.x;
      const int rows = kWhole ? min(Traits::kOuterRows, tile.w - number * Traits::kOuterRows) : tile.w;
      const int* outer_index = (kQueries ? p.q_index : p.k_index) + outer_at;
      const OuterTokens<Traits::kOuterRows, Traits::kD> outer(outer_index, rows);
      int begin = where.z / kInnerRows * kInnerRows;
      // A segment without keys has no steps, and none of its queries sees any.
      if (kWhole) begin = (rows > 0 ? p.first_query[outer_at] : end + kInnerRows - 1) / kInnerRows * kInnerRows;
      if (number == 0) first_seen = begin;
      const Steps steps(begin, end, kInnerRows, kWhole && number % 2 != 0);
      // A part of the index list comes while the three before it are used. By groups of copies: part i is in the one
      // before the last two when step i's turn has come.
      const auto fetch_index = [&](int i) {
        const int mine = Rows::first() + lane, row = steps.at(i) + mine;  // the warp alone uses it
        if (i < steps.count && lane < Rows::kMine && row < end)
          copy_async<4>(storage.index((index + i) % kIndexAhead) + 4 * mine, inner_index + row, true);
        commit_copies();
      };
#pragma unroll
      for (int i = 0; i < kIndexAhead - 1; ++i) fetch_index(i);
      {
        const uint32_t tile_full = tile_pipeline.barrier(storage.tile_full());
        const int* bounds = (kQueries ? p.num_visible_keys : p.first_query) + outer_at;
        const Source from0(outer0, tile.x, p.H, chunk), from1(outer1, tile.x, p.H, chunk);
        barrier_wait(tile_pipeline.barrier(storage.tile_empty()), tile_pipeline.parity() ^ 1);
        if constexpr (Traits::kOuterOperands == 2)
          Quarter<Traits::kOuterRows, Traits::kD>::template copy<2>(
              {storage.outer(tile_pipeline.stage, 0), storage.outer(tile_pipeline.stage, 1)}, {&from0, &from1}, inside,
              outer);
        else
          Quarter<Traits::kOuterRows, Traits::kD>::template copy<1>({storage.outer(tile_pipeline.stage, 0)}, {&from0},
                                                                    inside, outer);
        if (!kQueries && p.inverse_norm != nullptr) {
          const float* norms = p.inverse_norm + tile.x / p.H * int64_t{p.T} * p.H + tile.x % p.H;
          outer.for_each([&](int row, int token) {
            copy_async<4>(storage.outer_statistics(tile_pipeline.stage) + 4 * row, norms + int64_t{token} * p.H, true);
          });
        }
        const uint32_t work_tile = storage.work_tile(tile_pipeline.stage);
        const uint32_t tokens = work_tile + offsetof(WorkTileInfo<Traits>, tokens),
                       limits = work_tile + offsetof(WorkTileInfo<Traits>, bounds);
#pragma unroll
        for (int i = 0; i < (Traits::kOuterRows + kGroup - 1) / kGroup; ++i) {
          const int row = i * kGroup + static_cast<int>(threadIdx.x);
          if (Traits::kOuterRows % kGroup != 0 && row >= Traits::kOuterRows) break;
          const bool valid = row < rows;
          copy_async<4>(tokens + 4 * row, outer_index + (valid ? row : 0), valid);
          copy_async<4>(limits + 4 * row, bounds + (valid ? row : 0), valid);
        }
        barrier_arrive_copied(tile_full);
        if (threadIdx.x == 0) {
          const auto word = [](int x) { return static_cast<uint32_t>(x); };
          store_chunk(work_tile, make_uint4(word(tile.x), word(rows), word(begin), word(end)));
          if (kWhole)
            store_chunk(work_tile + 16,
                        make_uint4(word(number), word(number + 1 == tiles), word(where.x), word(first_seen)));
          if (!kWhole && !kQueries) {
            const uint32_t order = storage.entry(entries.stage) + 32;
            const int next = load_int(order), place = load_int(order + 4);
            const int number = tile.z / Traits::kOuterRows;
            store_chunk(work_tile + 16, make_uint4(word(number), 0, word(where.y), 0));
            store_chunk(work_tile + 32, make_uint4(word(next / kInnerRows * kInnerRows), word(place % p.ring_blocks),
                                                   word(place / p.ring_blocks), word(number)));
          }
          barrier_arrive(tile_full);
        }
      }
      const Source from0(inner0, tile.x, p.H, chunk), from1(inner1, tile.x, p.H, chunk);
#pragma unroll 1
      for (int i = 0; i < steps.count; ++i) {
        const bool last = number + 1 == tiles && i + 1 == steps.count;
        if (kShared && last) draw();
        if (!kShared && last) {
          PipelineState<2> next = entries;
          next.next();
          barrier_wait(next.barrier(storage.entry_full()), next.parity());
          prefetch_lists<kWhole>(p, storage.entry(next.stage));
        }
        wait_copies<kIndexAhead - 2>();
        __syncwarp();
        const int at = steps.at(i), left = end - at - Rows::first() - lane / Rows::kChunks;
        const uint32_t part = storage.index((index + i) % kIndexAhead) + 4 * (Rows::first() + lane / Rows::kChunks);
        barrier_wait(pipeline.barrier(storage.empty()), pipeline.parity() ^ 1);
        Rows::template copy<2>({storage.inner(pipeline.stage, 0), storage.inner(pipeline.stage, 1)}, {&from0, &from1},
                               inside, [&](int row) { return row < left ? load_int(part + 4 * row) : -1; });
        if (!kQueries && threadIdx.x < kInnerRows) {
          const int query = at + static_cast<int>(threadIdx.x);
          const float2* statistics = p.statistics + (kWhole ? where.x : where.y) + min(query, end - 1);
          const uint32_t to = storage.statistics(pipeline.stage) + threadIdx.x * 4;
          copy_async<4>(to, &statistics->x, query < end);
          copy_async<4>(to + 4 * kInnerRows, &statistics->y, query < end);
        }
        barrier_arrive_copied(pipeline.barrier(storage.full()));
        if (kShared && last) look_up(entries.stage ^ 1);
        if (kShared && i >= Traits::kDqSignalLag && static_cast<int>(threadIdx.x) % kGroup == i % 4 * 32) {
          // dq of that step has been added: see kDqSignalLag.
          const int place = load_int(storage.entry(entries.stage) + 36);
          RingBlock(p, place % p.ring_blocks, place / p.ring_blocks, begin / kInnerRows + i - Traits::kDqSignalLag)
              .signal(p, tile.z / Traits::kOuterRows, storage.fuses_norm());
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

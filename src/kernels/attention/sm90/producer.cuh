// The producer warpgroup of an sm_90 kernel. Thread 0 takes work items from the list; all threads copy the rows that a
// tile needs, its outer rows once and its inner rows step by step, into the stages of SharedStorage.
#pragma once
#include "kernels/attention/sm90/dq_semaphore.cuh"
#include "kernels/attention/sm90/gather.cuh"
#include "kernels/attention/sm90/producer_tile.cuh"
#include "kernels/attention/sm90/shared_storage.cuh"

namespace scfa::gpu::sm90 {

// The global memory that a producer copies from:
//            outer0, outer1        inner0, inner1
//   forward  q, unused             k, v
//   backward k, v                  q, dout
struct ProducerSources {
  const HeadRows &outer0, &outer1, &inner0, &inner1;
};

template <class Storage>
class Producer {
  using Traits = typename Storage::Traits;
  using Item = typename Storage::Item;
  using Tile = ProducerTile<Traits, Item>;
  using InnerRows = WarpRows<Traits::kInnerRows, Traits::kD>;
  using OuterRows = WarpRows<Traits::kOuterRows, Traits::kD>;
  static constexpr bool kOuterAreQueries = Tile::kOuterAreQueries, kWholeSegment = Tile::kWholeSegment;
  // Thread 0 takes an index from the tile counter two items ahead and starts an item's copy one ahead, to hide both
  // latencies. Where blocks share sums of dq, tiles must start nearly in the order of the list, or blocks wait for one
  // another (docs/tuning.md): there the index is taken as late as the pipeline of stages allows.
  static constexpr bool kSharesDq = std::is_same_v<Item, KeyTile>;

 public:
  __device__ Producer(const AttentionParams& params, const Storage& shared, const ProducerSources& sources)
      : p(params), storage(shared), from(sources), chunk(lane % (Traits::kD / 8)), inside(chunk * 8 < p.D) {}

  __device__ void run() {
    take_index();
    fetch_item(0);
    if (!kSharesDq) take_index();
    for (;; items.next()) {
      named_barrier_sync(kProducerBarrier);  // all are done with the item before, whose place is written next
      mbarrier_wait(items.barrier(storage.item_full()), items.parity());
      if (!kSharesDq) fetch_item(items.stage ^ 1), take_index();
      const Item item = load_item<Item>(storage.item(items.stage));
      if (item.head < 0) break;
      const int count = Tile::count(item);
      int first_seen = 0;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        Tile tile(item, i);
        const OuterTokens<Traits::kOuterRows, Traits::kD> tokens(
            (kOuterAreQueries ? p.q_index : p.k_index) + tile.outer_offset, tile.num_rows);
        tile.set_begin(p, item);  // behind the loads of tokens, which are under way
        if (i == 0) first_seen = tile.begin;
        load_tile(tile, tokens, i + 1 == count, first_seen);
        tiles.next();
      }
    }
    publish_end();
    wait_copies<0>();
  }

 private:
  __device__ void take_index() {
    if constexpr (kWholeSegment && Traits::kAccumulate)  // predicated: with a branch next_item would be spilled
      asm volatile(
          "{\n"
          ".reg .pred is_first;\n"
          "setp.eq.u32 is_first, %1, 0;\n"
          "@is_first atom.global.add.u32 %0, [%2], 1;\n"
          "}"
          : "+r"(next_item)
          : "r"(threadIdx.x), "l"(p.tile_counter)
          : "memory");
    else if (threadIdx.x == 0)
      next_item = atomicAdd(p.tile_counter, 1);
  }
  __device__ void fetch_item(int to) {
    if (threadIdx.x != 0) return;
    const uint32_t address = storage.item(to);
    if (next_item < *p.num_items) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(Item)) / 16; ++i)
        copy_async<16>(address + 16 * i, reinterpret_cast<const uint4*>(work_items<Item>(p) + next_item) + i, true);
      mbarrier_arrive_on_copies(storage.item_full() + 8 * to);
    } else {
      store_int(address, -1);
      mbarrier_arrive(storage.item_full() + 8 * to);
    }
  }

  // Prefetches the beginnings of the lists that the next item needs into the L2 cache.
  __device__ void prefetch_lists(uint32_t item) const {
    if (load_int(item + offsetof(Item, head)) < 0) return;
    const auto prefetch = [](const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); };
    const int keys = load_int(item + offsetof(Item, key_offset)),
              queries = load_int(item + offsetof(Item, query_offset));
    const int row = static_cast<int>(threadIdx.x) * 32;
    if constexpr (kWholeSegment) {
      const int num_keys = load_int(item + offsetof(Item, num_keys)),
                num_queries = load_int(item + offsetof(Item, num_queries));
      if (row < num_keys) prefetch(p.k_index + keys + row), prefetch(p.begin_query + keys + row);
      if (row < num_queries) {
        prefetch(p.q_index + queries + row);
        prefetch(p.lse_delta + queries + row);
        // With ranges it would spill registers.
        if (!Traits::kIsLocal) prefetch(p.lse_delta + queries + min(row + 16, num_queries - 1));
      }
    } else if constexpr (kOuterAreQueries) {
      const int num_queries = load_int(item + offsetof(Item, num_queries)),
                begin_key = Traits::kIsLocal ? load_int(item + offsetof(Item, begin_key)) : 0,
                end_key = load_int(item + offsetof(Item, end_key));
      if (row < num_queries) prefetch(p.q_index + queries + row), prefetch(p.end_key + queries + row);
      if (begin_key + row < end_key) prefetch(p.k_index + keys + begin_key + row);
    }
  }

  template <bool kQueries>
  __device__ LaneSource source(const HeadRows& rows, const Tile& tile) const {
    return {kQueries ? rows.head(tile.head, p.H) : rows.kv_head(tile.head, p.H), chunk};
  }

  // What is copied for a tile: the index lists of its first steps, its outer rows, and then step by step its inner
  // rows. is_last: of the item.
  __device__ void load_tile(const Tile& tile, const OuterTokens<Traits::kOuterRows, Traits::kD>& tokens, bool is_last,
                            int first_seen) {
    const Steps steps = tile.steps();
#pragma unroll
    for (int i = 0; i < kIndexStages - 1; ++i) fetch_index(tile, steps, i);
    load_outer(tile, tokens);
    publish(tile, is_last, first_seen);
    const LaneSource from0 = source<!kOuterAreQueries>(from.inner0, tile),
                     from1 = source<!kOuterAreQueries>(from.inner1, tile);
#pragma unroll 1
    for (int i = 0; i < steps.count; ++i) load_step(tile, steps, i, is_last && i + 1 == steps.count, from0, from1);
    if (kSharesDq && steps.count == 0) take_index(), fetch_item(items.stage ^ 1);  // else the last step did
    index = (index + steps.count) % kIndexStages;
  }

  // Copies the index list of step i, three steps ahead, and commits the cp.async group, which also has the rows of step
  // i - 3. At step i two newer groups are pending. It overwrites the list of step i - 4 (counted across tiles), which
  // all lanes have read before the last __syncwarp.
  __device__ void fetch_index(const Tile& tile, const Steps& steps, int i) const {
    const int mine = InnerRows::first() + lane, row = steps.row(i) + mine;  // only this warp uses it
    if (i < steps.count && lane < InnerRows::kCount && row < tile.end)
      copy_async<4>(storage.index((index + i) % kIndexStages) + 4 * mine,
                    (kOuterAreQueries ? p.k_index : p.q_index) + tile.inner_offset + row, true);
    commit_copies();
  }

  __device__ void load_outer(const Tile& tile, const OuterTokens<Traits::kOuterRows, Traits::kD>& tokens) const {
    const LaneSource from0 = source<kOuterAreQueries>(from.outer0, tile),
                     from1 = source<kOuterAreQueries>(from.outer1, tile);
    mbarrier_wait(tiles.barrier(storage.tile_empty()), tiles.parity() ^ 1);
    if constexpr (Traits::kOuterOperands == 2)
      OuterRows::template copy<2>({storage.outer(tiles.stage, 0), storage.outer(tiles.stage, 1)}, {&from0, &from1},
                                  inside, tokens);
    else
      OuterRows::template copy<1>({storage.outer(tiles.stage, 0)}, {&from0}, inside, tokens);
    if (!kOuterAreQueries && p.inverse_norm != nullptr) {
      const float* norms = p.inverse_norm + tile.head / p.H * int64_t{p.T} * p.H + tile.head % p.H;
      tokens.for_each([&](int row, int token) {
        copy_async<4>(storage.inverse_norm(tiles.stage) + 4 * row, norms + int64_t{token} * p.H, true);
      });
    }
  }

  // Writes the tile's WorkTileInfo, arrays by cp.async and the other fields by thread 0, and arrives at tile_full.
  __device__ void publish(const Tile& tile, bool is_last, int first_seen) const {
    using Info = WorkTileInfo<Traits>;
    using Ranged = RangedWorkTileInfo<Traits>;
    const int* tokens = (kOuterAreQueries ? p.q_index : p.k_index) + tile.outer_offset;
    const int* causal_bounds = (kOuterAreQueries ? p.end_key : p.begin_query) + tile.outer_offset;
    const uint32_t info = storage.work_tile(tiles.stage);
#pragma unroll
    for (int i = 0; i < (Traits::kOuterRows + kWarpgroupSize - 1) / kWarpgroupSize; ++i) {
      const int row = i * kWarpgroupSize + static_cast<int>(threadIdx.x);
      if (Traits::kOuterRows % kWarpgroupSize != 0 && row >= Traits::kOuterRows) break;
      const bool valid = row < tile.num_rows;
      copy_async<4>(info + offsetof(Info, tokens) + 4 * row, tokens + (valid ? row : 0), valid);
      copy_async<4>(info + offsetof(Info, causal_bounds) + 4 * row, causal_bounds + (valid ? row : 0), valid);
      if constexpr (Traits::kIsLocal) {
        const int* window_bounds = (kOuterAreQueries ? p.begin_key : p.end_query) + tile.outer_offset;
        copy_async<4>(info + offsetof(Ranged, window_bounds) + 4 * row, window_bounds + (valid ? row : 0), valid);
      }
    }
    const uint32_t tile_full = tiles.barrier(storage.tile_full());
    mbarrier_arrive_on_copies(tile_full);
    if (threadIdx.x != 0) return;
    store_int4(info, tile.head, tile.num_rows, tile.begin, tile.end);
    if (!kOuterAreQueries)
      store_int4(info + offsetof(Info, n_block), tile.n_block, is_last ? 1 : 0, tile.inner_offset, first_seen);
    if constexpr (kSharesDq) {
      const uint32_t item = storage.item(items.stage);
      const int next_begin = load_int(item + offsetof(Item, next_begin_query)),
                dq_block = load_int(item + offsetof(Item, dq_block));
      store_int4(info + offsetof(Info, next_begin), next_begin / Traits::kInnerRows * Traits::kInnerRows,
                 dq_block % p.ring_blocks, dq_block / p.ring_blocks, tile.n_block);
    }
    if constexpr (Traits::kIsLocal && !kOuterAreQueries)
      store_int4(info + offsetof(Ranged, previous_end), previous_end(tile), num_queries(), 0, 0);
    mbarrier_arrive(tile_full);
  }

  __device__ int num_queries() const {
    return load_int(storage.item(items.stage) + offsetof(Item, num_queries));
  }
  __device__ int previous_end(const Tile& tile) const {
    if constexpr (kSharesDq)
      return load_int(storage.item(items.stage) + offsetof(Item, previous_end_query));
    else
      return tile.n_block > 0 ? p.end_query[tile.outer_offset - 1] : 0;
  }

  // Tells consumers that no tile is left.
  __device__ void publish_end() const {
    mbarrier_wait(tiles.barrier(storage.tile_empty()), tiles.parity() ^ 1);
    const uint32_t tile_full = tiles.barrier(storage.tile_full());
    if (threadIdx.x == 0) {
      store_int(storage.work_tile(tiles.stage), -1);
      mbarrier_arrive(tile_full);
    }
    mbarrier_arrive(tile_full);
  }

  // Step i of a tile. is_last: of the item.
  __device__ void load_step(const Tile& tile, const Steps& steps, int i, bool is_last, const LaneSource& from0,
                            const LaneSource& from1) {
    if (kSharesDq && is_last) take_index();
    if (!kSharesDq && is_last) {
      PipelineState<2> next = items;
      next.next();
      mbarrier_wait(next.barrier(storage.item_full()), next.parity());
      prefetch_lists(storage.item(next.stage));
    }
    wait_copies<kIndexStages - 2>();
    __syncwarp();
    const int at = steps.row(i), row = InnerRows::first() + lane / InnerRows::kChunks, left = tile.end - at - row;
    const uint32_t list = storage.index((index + i) % kIndexStages) + 4 * row;
    mbarrier_wait(stages.barrier(storage.empty()), stages.parity() ^ 1);
    InnerRows::template copy<2>({storage.inner(stages.stage, 0), storage.inner(stages.stage, 1)}, {&from0, &from1},
                                inside, [&](int r) { return r < left ? load_int(list + 4 * r) : -1; });
    if (!kOuterAreQueries && threadIdx.x < Traits::kInnerRows) {
      const int query = at + static_cast<int>(threadIdx.x);
      const float2* lse_delta = p.lse_delta + tile.inner_offset + min(query, tile.end - 1);
      copy_async<4>(storage.lse(stages.stage) + threadIdx.x * 4, &lse_delta->x, query < tile.end);
      copy_async<4>(storage.delta(stages.stage) + threadIdx.x * 4, &lse_delta->y, query < tile.end);
    }
    mbarrier_arrive_on_copies(stages.barrier(storage.full()));
    if (kSharesDq && is_last) fetch_item(items.stage ^ 1);
    if constexpr (kSharesDq) {
      // The stage of this step was empty, so dq of the step kDqSignalLag before has been added.
      if (i >= Traits::kDqSignalLag && static_cast<int>(threadIdx.x) % kWarpgroupSize == i % 4 * 32) {
        const int dq_block = load_int(storage.item(items.stage) + offsetof(Item, dq_block));
        const int m_block = tile.begin / Traits::kInnerRows + i - Traits::kDqSignalLag;
        const bool completes = Traits::kIsLocal ? m_block * kQueryBlock >= previous_end(tile) : tile.n_block == 0;
        RingBlock(p, dq_block % p.ring_blocks, dq_block / p.ring_blocks, m_block)
            .signal(p, tile.n_block, completes, storage.fuses_norm());
      }
    }
    fetch_index(tile, steps, i + kIndexStages - 1);
    stages.next();
  }

  const AttentionParams& p;
  const Storage& storage;
  const ProducerSources& from;
  PipelineState<2> items;
  PipelineState<Traits::kTileStages> tiles;
  PipelineState<Traits::kStages> stages;
  int next_item = 0;  // of thread 0: its index in the work list
  int index = 0;      // which part of the index list comes next
  const int lane = threadIdx.x % 32, chunk;
  const bool inside;  // the lane's 16 bytes are within the head dim
};

}  // namespace scfa::gpu::sm90

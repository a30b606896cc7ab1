// Attention backward on sm_90a: dq, dk and dv by key tiles, after FlashAttention-3 (Shah et al. 2024,
// arXiv:2407.08608). Where to read what: shared_storage.cuh (barriers), key_tile_consumer.cuh (a step),
// dq_accumulation.cuh, then dq_semaphore.cuh (between blocks), producer.cuh.
#include "kernels/attention/sm90/attention.h"
#include "kernels/attention/sm90/key_tile_consumer.cuh"
#include "kernels/attention/sm90/producer.cuh"

namespace scfa::gpu::sm90 {

namespace {

template <class Storage, class Dq>
__device__ inline void consume_key_tiles(const AttentionParams& p, const Storage& storage) {
  using Traits = typename Storage::Traits;
  const WarpCoord coord;
  uint32_t ds_phases = 0;
  PipelineState<Traits::kTileStages> tiles;
  PipelineState<Traits::kStages> stages;
  while (true) {
    mbarrier_wait(tiles.barrier(storage.tile_full()), tiles.parity());
    fence_proxy_async();
    if (warp_uniform(WorkTileInfoView<Traits>{storage.work_tile(tiles.stage)}.head()) < 0) break;
    KeyTileConsumer<Storage, Dq> tile(p, storage, coord, stages, ds_phases, tiles.stage);
    tile.compute();
    // No warp of the group reads its rows of the values any more. Other groups may still read keys.
    named_barrier_sync(kConsumerBarrier0 + coord.warp_group);
    tile.write(storage.inverse_norm(tiles.stage));
    mbarrier_arrive_warp(tiles.barrier(storage.tile_empty()));
    tiles.next();
  }
}

// Item: KeyTile, where blocks share sums of dq, or SingleBlockSegment.
template <class Traits, class Item>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    attention_backward_sm90_kernel(const __grid_constant__ AttentionParams p) {
#ifdef SCFA_SM90A
  using Storage = SharedStorage<Traits, Item>;
  using Dq = std::conditional_t<std::is_same_v<Item, KeyTile>, DqShared<Storage>, DqPrivate<Storage>>;
  const Storage storage;
  storage.init(p.inverse_norm != nullptr && *p.untied_heads == 0);
  if (warp_uniform(threadIdx.x / kWarpgroupSize) == 0) {
    setmaxnreg_dec<Traits::kProducerRegs>();
    Producer<Storage>(p, storage, {p.k, p.v, p.q, p.dout}).run();
  } else {
    setmaxnreg_inc<Traits::kConsumerRegs>();
    consume_key_tiles<Storage, Dq>(p, storage);
  }
#endif
}

struct Config64 {
  static constexpr int kD = 64, kConsumerWarpgroups = 3, kOuterOperands = 2, kTileStages = 2;
  static constexpr int kInnerRows = 64, kStages = 3;
  static constexpr int kProducerRegs = 32, kConsumerRegs = 160;
  static constexpr bool kHasDs = true;
};
struct Config128 {
  static constexpr int kD = 128, kConsumerWarpgroups = 2, kOuterOperands = 2, kTileStages = 1;
  static constexpr int kInnerRows = 64, kStages = 3;
  static constexpr int kProducerRegs = 40, kConsumerRegs = 232;
  static constexpr bool kHasDs = true;
};

template <class Traits, class Item>
void launch(Stream stream, const Tensor& items, const int32_t* num_items, const AttentionParams& p) {
  launch_persistent<Traits, SharedStorage<Traits, Item>>(
      stream, "attention_backward", attention_backward_sm90_kernel<Traits, Item>, items, num_items, p);
}

// items: the work list; for KeyTile, the one whose tiles have kOuterRows keys (wide_key_tiles for D <= 64).
template <class Item>
void launch_for(Stream stream, const AttentionParams& p, const Segments& s, const Tensor& items,
                const int32_t* num_items) {
  static_assert(64 * Config64::kConsumerWarpgroups == kWideTileRows &&
                64 * Config128::kConsumerWarpgroups == kTileRows);
  bool_switch(s, p, [&](auto ranges, auto accumulate) {
    p.D <= 64 ? launch<KernelTraits<Config64, ranges, accumulate>, Item>(stream, items, num_items, p)
              : launch<KernelTraits<Config128, ranges, accumulate>, Item>(stream, items, num_items, p);
  });
}

}  // namespace

void backward_key_tiles(Stream stream, const AttentionParams& p, const Segments& s, bool only_multi_block) {
  const WorkCounts* counts = s.work.device_counts();
  if (p.D <= 64)
    launch_for<KeyTile>(stream, p, s, s.work.wide_key_tiles,
                        only_multi_block ? &counts->multi_block_wide_key_tiles : &counts->wide_key_tiles);
  else
    launch_for<KeyTile>(stream, p, s, s.work.key_tiles,
                        only_multi_block ? &counts->multi_block_key_tiles : &counts->key_tiles);
}

void backward_single_block_segments(Stream stream, const AttentionParams& p, const Segments& s) {
  launch_for<SingleBlockSegment>(stream, p, s, s.work.single_block_segments,
                                 &s.work.device_counts()->single_block_segments);
}

}  // namespace scfa::gpu::sm90

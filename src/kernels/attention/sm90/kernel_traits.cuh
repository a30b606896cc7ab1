// The constants of an sm_90 kernel, and how it is launched.
#pragma once
#include <algorithm>

#include "core/gpu.h"
#include "kernels/attention/attention_params.cuh"
#include "kernels/sm90/bounded_spin.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm90 {

// The outer tile is what a block works on: queries in forward (kBlockM of them), keys in backward (kBlockN). The inner
// rows pass by in steps: keys in forward, queries in backward. Config has
//   kD                   the head dim that rows are padded to
//   kConsumerWarpgroups  warpgroups that compute, 64 rows of the outer tile each
//   kOuterOperands       tensors of the outer rows in shared memory: q, or k and v
//   kTileStages          stages for outer tiles; with two, the next one is loaded while this one is computed
//   kInnerRows           inner rows per step; a stage has these rows of two tensors: k and v, or q and dout
//   kStages              stages for steps
//   kProducerRegs, kConsumerRegs  registers per thread of the producer warpgroup and of consumer warpgroups
//   kHasDs               in backward: buffers of ds (kOuterRows x kInnerRows bf16), one per consumer warpgroup
// kIsLocal: the first keys of a segment can be hidden from a query (Segments::has_ranges); FlashAttention-3: Is_local.
// kAccumulate: AttentionParams::accumulate.
template <class Config, bool kIsLocal_, bool kAccumulate_>
struct KernelTraits : Config {
  static constexpr bool kIsLocal = kIsLocal_, kAccumulate = kAccumulate_;
  using Config::kD, Config::kConsumerWarpgroups, Config::kTileStages, Config::kInnerRows, Config::kStages;
  static constexpr int kOuterRows = 64 * kConsumerWarpgroups;
  static constexpr int kThreads = kWarpgroupSize * (1 + kConsumerWarpgroups);
  using OuterTile = Tile<kOuterRows, kD>;
  using InnerTile = Tile<kInnerRows, kD>;
  using DsTile = Tile<kOuterRows, kInnerRows>;
  static constexpr int kDsBuffers = Config::kHasDs ? kConsumerWarpgroups : 0;
  // In backward dq of a step is computed and added kDqDelay steps later.
  static constexpr int kDqDelay = 2;
  // At step i the producer gets back the stage of step i - kStages. Consumers released it when they had added dq of
  // step i - kStages - kDqDelay.
  static constexpr int kDqSignalLag = kStages + kDqDelay;
  static_assert(kStages >= 2 && (!Config::kHasDs || kConsumerWarpgroups >= 2), "see key_tile_consumer.cuh");
  static_assert((Config::kProducerRegs + kConsumerWarpgroups * Config::kConsumerRegs) * kWarpgroupSize <= 65536);
  static_assert(kTileStages <= 2);
};

// One block per SM, which takes work items from a list until none is left.
template <class Traits, class Storage>
void launch_persistent(Stream stream, const char* op, void (*kernel)(AttentionParams), const Tensor& items,
                       const int32_t* num_items, AttentionParams p) {
  arm_spins();
  p.work_items = items.data, p.num_items = num_items;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Storage::kBytes);
  if (status != cudaSuccess) fail(op, ": ", cudaGetErrorString(status));
  const int64_t grid = std::min(items.size(0), int64_t{properties().multiprocessors});
  kernel<<<static_cast<unsigned>(grid), Traits::kThreads, Storage::kBytes, stream>>>(p);
  check_launch(op, stream);
}

}  // namespace scfa::gpu::sm90

// The constants of the sm_80 kernels, and how they are launched.
#pragma once
#include <algorithm>

#include "core/gpu.h"
#include "kernels/attention/attention_params.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu::sm80 {

// The outer tile is what a block works on: queries in forward and for dq (kBlockM rows), keys for dk and dv (kBlockN
// rows). Inner rows pass by in steps. Tile sizes are limited by registers (two accumulators of scores and one or two of
// results per warp) and, for D = 128, the 99 KB of shared memory that consumer GPUs have. Config has
//   kD               the head dim that rows are padded to
//   kWarps           warps, with 16 rows of the outer tile each
//   kInnerRows       inner rows per step
//   kOuterOperands   tensors of the outer rows in shared memory: q; q and dout; or k and v
//   kBlocksPerSm     blocks that are to fit on an SM
template <class Config>
struct KernelTraits : Config {
  using Config::kD, Config::kWarps, Config::kInnerRows, Config::kOuterOperands;
  static constexpr int kThreads = 32 * kWarps, kOuterRows = 16 * kWarps;
  static_assert(kTileRows % kOuterRows == 0);
  using OuterTile = Tile<kOuterRows, kD>;
  using InnerTile = Tile<kInnerRows, kD>;
  // Two stages of two tensors of inner rows follow the outer tiles.
  static constexpr int kStageStart = kOuterOperands * OuterTile::kBytes;
  static constexpr int kSharedBytes = kStageStart + 4 * InnerTile::kBytes;
};

// As many blocks as run at once, but no more than there can be tiles.
template <class Traits>
void launch_persistent(Context& ctx, const char* op, void (*kernel)(AttentionParams), const Tensor& items,
                       const int32_t* num_items, AttentionParams p) {
  const auto check = [op](cudaError_t status) {
    if (status != cudaSuccess) fail(op, ": ", cudaGetErrorString(status));
  };
  p.work_items = items.data, p.num_items = num_items;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Traits::kSharedBytes));
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Traits::kThreads, Traits::kSharedBytes));
  require(blocks > 0, op, ": ", properties().name, " has too little shared memory");
  const int64_t grid =
      std::min(items.size(0) * (kTileRows / Traits::kOuterRows), int64_t{blocks} * properties().multiprocessors);
  kernel<<<static_cast<unsigned>(grid), Traits::kThreads, Traits::kSharedBytes, ctx.stream()>>>(p);
  check_launch(op, ctx.stream());
}

}  // namespace scfa::gpu::sm80

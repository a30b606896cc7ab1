// How the Hopper kernels are launched: one block per SM, which takes tiles from the list.
#pragma once
#include <algorithm>

#include "core/gpu.h"
#include "kernels/attention/hopper_block.cuh"
#include "kernels/attention/segments.h"

namespace scfa::gpu::sm90 {

template <class Traits>
void launch_blocks(Stream stream, const char* op, void (*kernel)(AttentionParams, int), int list, const Tensor& entries,
                   AttentionParams p) {
  arm_spins();
  p.tiles = static_cast<const int4*>(entries.data);
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedStorage<Traits>::kBytes);
  if (status != cudaSuccess) fail(op, ": ", cudaGetErrorString(status));
  const int64_t grid = std::min(entries.size(0), int64_t{properties().multiprocessors});
  kernel<<<static_cast<unsigned>(grid), Traits::kThreads, SharedStorage<Traits>::kBytes, stream>>>(p, list);
  check_launch(op, stream);
}

}  // namespace scfa::gpu::sm90

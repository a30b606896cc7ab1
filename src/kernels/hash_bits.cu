// One pass over the tensor, bound by memory; integer sums, so atomics do not make the result depend on their order.
#include "core/rng.h"
#include "kernels/device_math.cuh"
#include "kernels/hash_bits.h"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256, kBlocks = 1024;

__global__ void __launch_bounds__(kThreads)
    hash_bits_kernel(unsigned long long* hash, const uint32_t* words, int64_t n) {
  unsigned long long sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    sum += mix_word(words[i], static_cast<uint64_t>(i));
  sum = block_sum(sum);
  if (threadIdx.x == 0) atomicAdd(hash, sum);
}

}  // namespace

void hash_bits(Context& ctx, Tensor hash, ConstTensor t) {
  ctx.zero(hash);
  hash_bits_kernel<<<kBlocks, kThreads, 0, ctx.stream()>>>(static_cast<unsigned long long*>(hash.data),
                                                           static_cast<const uint32_t*>(t.data), t.bytes() / 4);
  check_launch("hash_bits", ctx.stream());
}

}  // namespace scfa::gpu

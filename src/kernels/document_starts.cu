// Starts of documents: a running maximum. One block per sequence, a chunk of kThreads tokens at a time.
#include "kernels/device_math.cuh"
#include "kernels/document_starts.h"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 1024;
static_assert(kThreads == 32 * 32, "a lane of a warp for each warp of the block");

// The maximum over this lane and those before it.
__device__ inline int inclusive_max(int value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, value, offset);
    if (lane >= offset) value = max(value, other);
  }
  return value;
}

__global__ void __launch_bounds__(kThreads)
    document_starts_kernel(int* starts, const int* ids, int T, int end_of_text) {
  __shared__ int of_warps[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t sequence = static_cast<int64_t>(blockIdx.x) * T;
  int begin = 0;  // of the document that the chunk begins in
  for (int first = 0; first < T; first += kThreads) {
    const int t = first + static_cast<int>(threadIdx.x);
    const int up_to_here = inclusive_max(t < T && ids[sequence + t] == end_of_text ? t + 1 : 0);
    const int before = __shfl_up_sync(0xFFFFFFFFu, up_to_here, 1);
    if (lane == 31) of_warps[warp] = up_to_here;
    __syncthreads();
    const int up_to_warp = inclusive_max(of_warps[lane]);
    const int earlier = __shfl_sync(0xFFFFFFFFu, up_to_warp, max(warp - 1, 0));
    if (t < T) starts[sequence + t] = max(begin, max(warp > 0 ? earlier : 0, lane > 0 ? before : 0));
    begin = max(begin, __shfl_sync(0xFFFFFFFFu, up_to_warp, 31));
    __syncthreads();  // the maxima may be written again
  }
}

}  // namespace

void document_starts(Context& ctx, Tensor starts, ConstTensor ids, int32_t end_of_text) {
  document_starts_kernel<<<static_cast<unsigned>(ids.size(0)), kThreads, 0, ctx.stream()>>>(
      starts.as<int>(), ids.as<int>(), static_cast<int>(ids.size(1)), end_of_text);
  check_launch("document_starts", ctx.stream());
}

}  // namespace scfa::gpu

#include "kernels/sm90/probe.h"

#include "core/buffer.h"
#include "core/gpu.h"
#include "kernels/sm90/wgmma.cuh"

namespace scfa::gpu::sm90 {

namespace {

// A GEMM of ones by one warpgroup: its result shows whether this build's code for sm_90a runs on this GPU.
__global__ void __launch_bounds__(kWarpgroupSize) probe_kernel(float* result) {
#ifdef SCFA_SM90A
  __shared__ alignas(1024) __nv_bfloat16 ones[64 * 64];
  for (int i = threadIdx.x; i < 64 * 64; i += kWarpgroupSize) ones[i] = __float2bfloat16_rn(1.0f);
  fence_proxy_async();
  __syncthreads();
  float d[32];
  warpgroup_fence_operand(d);
  warpgroup_arrive();
  gemm_ss<64, 64, 64, 64>(d, shared_address(ones), 0, shared_address(ones));
  warpgroup_commit();
  warpgroup_wait<0>();
  warpgroup_fence_operand(d);
  if (threadIdx.x == 0) *result = d[0];
#endif
}

}  // namespace

const Probe& probe() {
  static const Probe found = []() -> Probe {
    if (properties().compute != 90) return {false, properties().name + " is not a Hopper GPU"};
    Buffer result(sizeof(float), Device::kGpu);
    float value = 0;
    cudaMemset(result.data(), 0, sizeof(float));
    probe_kernel<<<1, kWarpgroupSize>>>(static_cast<float*>(result.data()));
    const cudaError_t status = cudaMemcpy(&value, result.data(), sizeof(float), cudaMemcpyDeviceToHost);
    cudaGetLastError();
    if (status != cudaSuccess) return {false, concat("a trial failed: ", cudaGetErrorString(status))};
    if (value != 64.0f) return {false, "this build has no code for sm_90a"};
    return {true, properties().name + " runs code for sm_90a"};
  }();
  return found;
}

}  // namespace scfa::gpu::sm90

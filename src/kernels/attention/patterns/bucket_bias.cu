#include "core/gpu.h"
#include "kernels/attention/patterns/bucket_bias.h"

namespace scfa::gpu {

namespace {

constexpr int kMaxBuckets = 64;

// grid: heads; a thread per bucket
__global__ void add_bucket_loads_kernel(double* loads, const int* begin, int B, int H, int S, int first_head) {
  double sum = 0;
  for (int b = 0; b < B; ++b) {
    const int* of_head = begin + (int64_t{b} * H + first_head + blockIdx.x) * (S + 1);
    sum += of_head[threadIdx.x + 1] - of_head[threadIdx.x];
  }
  loads[blockIdx.x * blockDim.x + threadIdx.x] += sum;
}

// grid: rows; a thread per bucket
__global__ void update_bucket_bias_kernel(float* bias, const double* loads, float rate) {
  __shared__ double row_loads[kMaxBuckets];
  __shared__ float row_bias[kMaxBuckets];
  const auto buckets = static_cast<int>(blockDim.x), at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  row_loads[threadIdx.x] = loads[at];
  __syncthreads();
  double total = 0;
  for (int s = 0; s < buckets; ++s) total += row_loads[s];
  if (total == 0) return;
  const auto share = static_cast<float>(row_loads[threadIdx.x] * buckets / total);
  const float next = bias[at] + rate * fminf(fmaxf(-logf(share), -1.0f), 1.0f);
  row_bias[threadIdx.x] = next;
  __syncthreads();
  float sum = 0;
  for (int s = 0; s < buckets; ++s) sum += row_bias[s];
  bias[at] = next - sum / static_cast<float>(buckets);
}

}  // namespace

void add_bucket_loads(Context& ctx, Tensor loads, ConstTensor begin, int64_t first_head) {
  add_bucket_loads_kernel<<<static_cast<unsigned>(loads.size(0)), static_cast<unsigned>(loads.size(1)), 0,
                            ctx.stream()>>>(loads.as<double>(), begin.as<int32_t>(), static_cast<int>(begin.size(0)),
                                            static_cast<int>(begin.size(1)), static_cast<int>(begin.size(2) - 1),
                                            static_cast<int>(first_head));
  check_launch("add_bucket_loads", ctx.stream());
}

void update_bucket_bias(Context& ctx, Tensor bias, ConstTensor loads, float rate) {
  update_bucket_bias_kernel<<<static_cast<unsigned>(bias.size(0)), static_cast<unsigned>(bias.size(1)), 0,
                              ctx.stream()>>>(bias.as<float>(), loads.as<double>(), rate);
  check_launch("update_bucket_bias", ctx.stream());
}

}  // namespace scfa::gpu

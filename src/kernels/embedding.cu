// Token and position embedding. Backward is deterministic: rows are sorted by token (a stable radix sort), and every
// token's rows are added in their order, in runs of up to kRun rows whose sums are then added in theirs.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/device_math.cuh"
#include "kernels/embedding.h"

namespace scfa::gpu {

namespace {

constexpr int kRun = 32;  // sorted rows a block adds up; long enough to keep partial sums few

__global__ void __launch_bounds__(128)
    embedding_forward_kernel(__nv_bfloat16* x, const int* ids, const __nv_bfloat16* wte, const __nv_bfloat16* wpe,
                             int64_t T, int64_t V, int64_t C, int64_t first) {
  const int64_t i = blockIdx.x;
  const int id = ids[i];
  const bool known = id >= 0 && id < V;
  const __nv_bfloat16* token = wte + (known ? id : 0) * C;
  const __nv_bfloat16* position = wpe != nullptr ? wpe + (first + i % T) * C : nullptr;
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    const float sum = __bfloat162float(token[c]) + (position != nullptr ? __bfloat162float(position[c]) : 0.0f);
    x[i * C + c] = __float2bfloat16_rn(known ? sum : NAN);
  }
}

// dwpe[t] += sum over b of dx[b, t]. grid: (T).
__global__ void __launch_bounds__(128)
    positions_kernel(float* dwpe, const __nv_bfloat16* dx, int64_t B, int64_t T, int64_t C) {
  const int64_t t = blockIdx.x;
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    float sum = 0.0f;
    for (int64_t b = 0; b < B; ++b) sum += __bfloat162float(dx[(b * T + t) * C + c]);
    dwpe[t * C + c] += sum;
  }
}

__global__ void __launch_bounds__(256) number_rows_kernel(int* rows, int N) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < N) rows[i] = i;
}

// A block adds up the sorted rows [kRun * blockIdx.x, + kRun). Sums of tokens whose rows all lie there go to dwte, the
// others to partial: to entry 2 k if the token began before chunk k, else (it goes on after the chunk) to 2 k + 1.
__global__ void __launch_bounds__(128) chunk_kernel(float* dwte, float* partial, const int* ids, const int* rows,
                                                    const __nv_bfloat16* dx, int N, int64_t V, int64_t C) {
  const int begin = blockIdx.x * kRun, end = min(N, begin + kRun);
  __shared__ int id_of[kRun], row_of[kRun];
  if (threadIdx.x < end - begin) {
    id_of[threadIdx.x] = ids[begin + threadIdx.x];
    row_of[threadIdx.x] = rows[begin + threadIdx.x];
  }
  __syncthreads();
  const int first = id_of[0], last = id_of[end - begin - 1];
  const bool began_before = begin > 0 && ids[begin - 1] == first, goes_on = end < N && ids[end] == last;
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    float sum = 0.0f;
    for (int i = 0; i < end - begin; ++i) {
      sum += __bfloat162float(dx[row_of[i] * C + c]);
      const int id = id_of[i];
      if (i + 1 < end - begin && id_of[i + 1] == id) continue;
      if (id == first && began_before)
        partial[2 * static_cast<int64_t>(blockIdx.x) * C + c] = sum;
      else if (id == last && goes_on)
        partial[(2 * static_cast<int64_t>(blockIdx.x) + 1) * C + c] = sum;
      else if (id >= 0 && id < V)
        dwte[id * C + c] += sum;
      sum = 0.0f;
    }
  }
}

// A block looks at the token that goes on behind chunk blockIdx.x and, if it also began there, adds its partial sums.
__global__ void __launch_bounds__(128)
    spanning_kernel(float* dwte, const float* partial, const int* ids, int N, int64_t V, int64_t C) {
  const int begin = blockIdx.x * kRun, end = min(N, begin + kRun);
  if (end >= N) return;
  const int id = ids[end - 1];
  if (ids[end] != id || id < 0 || id >= V) return;
  if (ids[begin] == id && begin > 0 && ids[begin - 1] == id) return;  // it began earlier
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    float sum = partial[(2 * static_cast<int64_t>(blockIdx.x) + 1) * C + c];
    for (int64_t k = blockIdx.x + 1; k * kRun < N && ids[k * kRun] == id; ++k) sum += partial[2 * k * C + c];
    dwte[id * C + c] += sum;
  }
}

// What the sort needs, in bytes.
size_t sort_bytes(int N) {
  size_t bytes = 0;
  const auto* in = static_cast<const int*>(nullptr);
  auto* out = static_cast<int*>(nullptr);
  const cudaError_t status = cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, N);
  require(status == cudaSuccess, "embedding_backward: ", cudaGetErrorString(status));
  return bytes;
}

// The parts of scratch, in elements of 4 bytes, each aligned to 256 bytes.
struct Plan {
  int64_t ids, rows, sorted_rows, sort, partial, total;
  Plan(int64_t N, int64_t C) {
    int64_t next = 0;
    const auto take = [&](int64_t elements) {
      const int64_t at = next;
      next += (elements + 63) / 64 * 64;
      return at;
    };
    ids = take(N), rows = take(N), sorted_rows = take(N);
    sort = take(static_cast<int64_t>(sort_bytes(static_cast<int>(N)) + 3) / 4);
    partial = take(2 * ((N + kRun - 1) / kRun) * C);
    total = next;
  }
};

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

int64_t embedding_backward_scratch(const Context& /*ctx*/, int64_t N, int64_t C) {
  return Plan(N, C).total;
}

void embedding_forward(Context& ctx, Tensor x, ConstTensor ids, ConstTensor wte, ConstTensor wpe,
                       int64_t first_position) {
  embedding_forward_kernel<<<static_cast<unsigned>(ids.numel()), 128, 0, ctx.stream()>>>(
      static_cast<__nv_bfloat16*>(x.data), ids.as<int32_t>(), static_cast<const __nv_bfloat16*>(wte.data),
      static_cast<const __nv_bfloat16*>(wpe.data), ids.size(1), wte.size(0), wte.size(1), first_position);
  check_launch("embedding_forward", ctx.stream());
}

void embedding_backward(Context& ctx, Tensor dwte, Tensor dwpe, ConstTensor dx, ConstTensor ids, Tensor scratch) {
  constexpr const char* kOp = "embedding_backward";
  const int64_t B = ids.size(0), T = ids.size(1), V = dwte.size(0), C = dwte.size(1);
  const int N = static_cast<int>(B * T);
  const auto* gradient = static_cast<const __nv_bfloat16*>(dx.data);
  if (dwpe) {
    positions_kernel<<<static_cast<unsigned>(T), 128, 0, ctx.stream()>>>(dwpe.as<float>(), gradient, B, T, C);
    check_launch(kOp, ctx.stream());
  }
  const Plan plan(N, C);
  auto* space = scratch.as<float>();
  auto* sorted_ids = reinterpret_cast<int*>(space + plan.ids);
  auto *rows = reinterpret_cast<int*>(space + plan.rows),
       *sorted_rows = reinterpret_cast<int*>(space + plan.sorted_rows);
  float* partial = space + plan.partial;
  number_rows_kernel<<<blocks_for(N, 256), 256, 0, ctx.stream()>>>(rows, N);
  check_launch(kOp, ctx.stream());
  size_t bytes = sort_bytes(N);
  const cudaError_t status = cub::DeviceRadixSort::SortPairs(space + plan.sort, bytes, ids.as<int32_t>(), sorted_ids,
                                                             rows, sorted_rows, N, 0, 32, ctx.stream());
  require(status == cudaSuccess, kOp, ": ", cudaGetErrorString(status));
  const auto chunks = static_cast<unsigned>((N + kRun - 1) / kRun);
  chunk_kernel<<<chunks, 128, 0, ctx.stream()>>>(dwte.as<float>(), partial, sorted_ids, sorted_rows, gradient, N, V, C);
  check_launch(kOp, ctx.stream());
  spanning_kernel<<<chunks, 128, 0, ctx.stream()>>>(dwte.as<float>(), partial, sorted_ids, N, V, C);
  check_launch(kOp, ctx.stream());
}

}  // namespace scfa::gpu

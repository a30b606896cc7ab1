// Softmax cross-entropy and its gradient in place. Memory sees one read and one write of a row, unless it is very long.
// On Hopper, persistent blocks have two rows in shared memory: one is computed while the one before is stored and the
// one behind it loaded, both by bulk copies. Elsewhere, and for rows that do not fit, a block per row: rows of up to
// kThreads * kPacks * 8 logits stay in registers between the sums and the gradient; longer ones are read twice.
#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/device_math.cuh"
#include "kernels/fragment_math.cuh"
#include "kernels/sm90/bulk_copy.cuh"
#include "kernels/sm90/mbarrier.cuh"
#include "kernels/sm90/probe.h"
#include "kernels/sm90/ptx.cuh"
#include "kernels/tile.cuh"

namespace scfa::gpu {

namespace {

constexpr float kLog2E = 1.442695041f, kLn2 = 0.693147181f;

// Up to kPack elements from column c on; columns outside [0, V) read as -inf. `aligned`: rows start at 16 bytes.
__device__ inline void load_columns(float (&v)[kPack], const __nv_bfloat16* row, int c, int V, bool aligned) {
  if (aligned && c + kPack <= V) return load(v, row + c);
#pragma unroll
  for (int e = 0; e < kPack; ++e) v[e] = c + e < V ? __bfloat162float(row[c + e]) : -INFINITY;
}
__device__ inline void store_columns(__nv_bfloat16* row, int c, int P, bool aligned, const float (&v)[kPack]) {
  if (aligned && c + kPack <= P) return store(row + c, v);
#pragma unroll
  for (int e = 0; e < kPack; ++e)
    if (c + e < P) row[c + e] = __float2bfloat16_rn(v[e]);
}

// kPacks: packs of a row that a thread holds; 0: none, the row is read again for the gradient.
template <int kThreads, int kPacks>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(float* losses, float* correct, __nv_bfloat16* logits, const int* targets, int V, int P,
                         float gradient_scale) {
  const int64_t i = blockIdx.x;
  __nv_bfloat16* row = logits + i * P;  // i is 64 bits wide
  const bool aligned = P % kPack == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0;
  const int target = targets[i];
  const bool known = target >= 0 && target < V, counts = target != kIgnoredTarget;
  const float of_target = known ? __bfloat162float(row[target]) : NAN;
  uint4 held[kPacks > 0 ? kPacks : 1];  // as they came: exponentials are computed twice rather than kept
  float top = -INFINITY, sum = 0.0f;
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      load_columns(v, row, (n * kThreads + static_cast<int>(threadIdx.x)) * kPack, V, aligned);
      held[n] = pack(v);
#pragma unroll
      for (int e = 0; e < kPack; ++e) top = fmaxf(top, v[e]);
    }
    top = block_max(top);
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      unpack(v, held[n]);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += exp2f((v[e] - top) * kLog2E);
    }
  } else {
    for (int c = static_cast<int>(threadIdx.x) * kPack; c < V; c += kThreads * kPack) {
      float v[kPack], highest = top;
      load_columns(v, row, c, V, aligned);
#pragma unroll
      for (int e = 0; e < kPack; ++e) highest = fmaxf(highest, v[e]);
      const float base = highest == -INFINITY ? 0.0f : highest;  // so far -inf, or NaN, which must reach the sum
      sum *= exp2f((top - base) * kLog2E);
      top = highest;
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += exp2f((v[e] - base) * kLog2E);
    }
    const float own = top;
    top = block_max(top);
    if (own != -INFINITY) sum *= exp2f((own - top) * kLog2E);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    losses[i] = counts ? top + log2f(sum) * kLn2 - of_target : 0.0f;  // NaN where the target is unknown
    correct[i] = of_target == top ? 1.0f : 0.0f;
  }
  if (gradient_scale == 0.0f) return;
  const float scale = known ? gradient_scale / sum : counts ? NAN : 0.0f;
  const auto write = [&](float(&v)[kPack], int64_t c) {
#pragma unroll
    for (int e = 0; e < kPack; ++e)
      v[e] = exp2f((v[e] - top) * kLog2E) * scale - (c + e == target ? gradient_scale : 0.0f);
#pragma unroll
    for (int e = 0; e < kPack; ++e)
      if (c + e >= V) v[e] = 0.0f;
    store_columns(row, c, P, aligned, v);
  };
  if constexpr (kPacks > 0) {
#pragma unroll
    for (int n = 0; n < kPacks; ++n) {
      float v[kPack];
      unpack(v, held[n]);
      write(v, (n * kThreads + static_cast<int>(threadIdx.x)) * kPack);
    }
  } else {
    for (int c = static_cast<int>(threadIdx.x) * kPack; c < P; c += kThreads * kPack) {
      float v[kPack];
      load_columns(v, row, c, V, aligned);
      write(v, c);
    }
  }
}

// ---- rows in shared memory (sm_90) ----------------------------------------------------------------------------------

constexpr int kRowThreads = 512, kRowWarps = kRowThreads / 32;  // that compute; one more warp copies
constexpr int kMaxSharedBytes = 227 * 1024;

struct RowStorage {  // offsets: two rows, and what goes with each
  uint32_t row_bytes;
  __host__ __device__ explicit RowStorage(int P) : row_bytes(static_cast<uint32_t>((P * 2 + 127) / 128 * 128)) {}
  __host__ __device__ uint32_t row(int i) const { return static_cast<uint32_t>(i) * row_bytes; }
  __host__ __device__ uint32_t sums(int i) const { return row(2) + static_cast<uint32_t>(i) * kRowWarps * 8; }
  __host__ __device__ uint32_t full(int i) const { return sums(2) + static_cast<uint32_t>(i) * 8; }
  __host__ __device__ uint32_t done(int i) const { return full(2) + static_cast<uint32_t>(i) * 8; }
  __host__ __device__ uint32_t bytes() const { return done(2); }
};

#ifdef SCFA_SM90A

// One thread: loads two rows, then stores each that is done and loads the next one but one in its place.
__device__ inline void copy_rows(uint32_t shared, const RowStorage& at, __nv_bfloat16* logits, int64_t N, int P,
                                 bool store_rows) {
  const uint32_t bytes = static_cast<uint32_t>(P) * 2;
  const auto load_row = [&](int64_t row, int slot) {
    mbarrier_expect_bytes(shared + at.full(slot), bytes);
    bulk_load(shared + at.row(slot), logits + row * P, bytes, shared + at.full(slot));
  };
  const int64_t step = gridDim.x;
  for (int slot = 0; slot < 2; ++slot)
    if (blockIdx.x + slot * step < N) load_row(blockIdx.x + slot * step, slot);
  PipelineState<2> state;
  for (int64_t row = blockIdx.x; row < N; row += step, state.next()) {
    mbarrier_wait(shared + at.done(state.stage), state.parity());
    if (store_rows) {
      bulk_store(logits + row * P, shared + at.row(state.stage), bytes);
      bulk_commit();
      bulk_wait_read();
    }
    if (row + 2 * step < N) load_row(row + 2 * step, state.stage);
  }
}

__device__ inline void compute_rows(uint32_t shared, const RowStorage& at, float* losses, float* correct,
                                    const int* targets, int64_t N, int V, int P, float gradient_scale) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  PipelineState<2> state;
  for (int64_t row = blockIdx.x; row < N; row += gridDim.x, state.next()) {
    const int target = targets[row];
    const bool known = target >= 0 && target < V, counts = target != kIgnoredTarget;
    const uint32_t from = shared + at.row(state.stage);
    const auto get = [&](float(&v)[kPack], int c) {  // columns from V on read as -inf
      unpack(v, load_chunk(from + c * 2));
      if (c + kPack <= V) return;
#pragma unroll
      for (int e = 0; e < kPack; ++e)
        if (c + e >= V) v[e] = -INFINITY;
    };
    mbarrier_wait(shared + at.full(state.stage), state.parity());
    const auto logit = [&](int c) {
      const uint32_t pair = static_cast<uint32_t>(load_int(from + c / 2 * 4));
      return c % 2 == 0 ? low_half(pair) : high_half(pair);
    };
    const float of_target = known ? logit(target) : NAN;

    float top = -INFINITY, sum = 0.0f;
    for (int c = static_cast<int>(threadIdx.x) * kPack; c < V; c += kRowThreads * kPack) {
      float v[kPack], highest = -INFINITY;
      get(v, c);
#pragma unroll
      for (int e = 0; e < kPack; ++e) highest = fmaxf(highest, v[e]);
      if (highest > top) {
        sum *= exp2_fast((top - highest) * kLog2E);
        top = highest;
      }
      const float base = top == -INFINITY ? 0.0f : top * kLog2E;  // so far -inf, or NaN, which must reach the sum
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += exp2_fast(fmaf(v[e], kLog2E, -base));
    }
    // A sum that goes with -inf is of -inf and NaN only: 0, which stays, or NaN.
    const auto rescaled = [](float part, float from_top, float to_top) {
      return from_top == to_top ? part : part * exp2_fast((from_top - to_top) * kLog2E);
    };
    const float top_of_warp = warp_max(top);
    const float sum_of_warp = warp_sum(rescaled(sum, top, top_of_warp));
    if (lane == 0) {
      store_int(shared + at.sums(state.stage) + warp * 8, __float_as_int(top_of_warp));
      store_int(shared + at.sums(state.stage) + warp * 8 + 4, __float_as_int(sum_of_warp));
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kRowThreads) : "memory");
    const float2 of_warp = load_float2(shared + at.sums(state.stage) + lane % kRowWarps * 8);
    top = warp_max(of_warp.x);
    sum = warp_sum(lane < kRowWarps ? rescaled(of_warp.y, of_warp.x, top) : 0.0f);
    if (threadIdx.x == 0) {
      losses[row] = counts ? top + log2f(sum) * kLn2 - of_target : 0.0f;  // NaN where the target is unknown
      correct[row] = of_target == top ? 1.0f : 0.0f;
    }
    if (gradient_scale != 0.0f) {
      const float scale = known ? gradient_scale / sum : counts ? NAN : 0.0f, base = top * kLog2E;
      for (int c = static_cast<int>(threadIdx.x) * kPack; c < P; c += kRowThreads * kPack) {
        float v[kPack];
        get(v, c);
#pragma unroll
        for (int e = 0; e < kPack; ++e) v[e] = exp2_fast(fmaf(v[e], kLog2E, -base)) * scale;
        if (c <= target && target < c + kPack) {
#pragma unroll
          for (int e = 0; e < kPack; ++e)
            if (c + e == target) v[e] -= gradient_scale;
        }
        if (c + kPack > V) {
#pragma unroll
          for (int e = 0; e < kPack; ++e)
            if (c + e >= V) v[e] = 0.0f;
        }
        store_chunk(from + c * 2, pack(v));
      }
      fence_proxy_async();
    }
    mbarrier_arrive_warp(shared + at.done(state.stage));
  }
}

#endif

__global__ void __launch_bounds__(kRowThreads + 32)
    cross_entropy_rows_kernel(float* losses, float* correct, __nv_bfloat16* logits, const int* targets, int64_t N,
                              int V, int P, float gradient_scale) {
#ifdef SCFA_SM90A
  extern __shared__ __align__(128) unsigned char raw[];
  const uint32_t shared = shared_address(raw);
  const RowStorage at(P);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared + at.full(i), 1);
      mbarrier_init(shared + at.done(i), kRowWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= kRowThreads) {
    if (threadIdx.x == kRowThreads) copy_rows(shared, at, logits, N, P, gradient_scale != 0.0f);
  } else {
    compute_rows(shared, at, losses, correct, targets, N, V, P, gradient_scale);
  }
#endif
}

bool rows_fit(const Tensor& logits) {
  const int64_t P = logits.size(1);
  return P % kPack == 0 && P <= kMaxSharedBytes / 4 && RowStorage(static_cast<int>(P)).bytes() <= kMaxSharedBytes &&
         reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && sm90::probe().usable;
}

void launch_rows(Context& ctx, const Tensor& losses, const Tensor& correct, const Tensor& logits,
                 const ConstTensor& targets, int64_t vocabulary, float gradient_scale) {
  static const bool prepared =
      cudaFuncSetAttribute(cross_entropy_rows_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes) ==
      cudaSuccess;
  require(prepared, "cross_entropy: the kernel's shared memory cannot be set");
  arm_spins();
  const int64_t N = logits.size(0);
  const int P = static_cast<int>(logits.size(1));
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(N, properties().multiprocessors));
  cross_entropy_rows_kernel<<<blocks, kRowThreads + 32, RowStorage(P).bytes(), ctx.stream()>>>(
      losses.as<float>(), correct.as<float>(), static_cast<__nv_bfloat16*>(logits.data), targets.as<int32_t>(), N,
      static_cast<int>(vocabulary), P, gradient_scale);
  check_launch("cross_entropy", ctx.stream());
}

// ---------------------------------------------------------------------------------------------------------------------

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    add_losses_kernel(double* sums, const float* losses, const float* correct, const int* targets, int64_t n) {
  double loss = 0.0, hit = 0.0, counted = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) {
    loss += losses[i], hit += correct[i];
    counted += targets[i] == kIgnoredTarget ? 0.0 : 1.0;
  }
  loss = block_sum(loss);
  hit = block_sum(hit);
  counted = block_sum(counted);
  if (threadIdx.x == 0) sums[0] += loss, sums[1] += hit, sums[2] += counted;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void cross_entropy(Context& ctx, Tensor losses, Tensor correct, Tensor logits, ConstTensor targets, int64_t vocabulary,
                   float gradient_scale) {
  const int64_t N = logits.size(0), P = logits.size(1);
  if (P > 128 * kPack && rows_fit(logits))
    return launch_rows(ctx, losses, correct, logits, targets, vocabulary, gradient_scale);
  const auto launch = [&](auto kernel, int threads) {
    kernel<<<static_cast<unsigned>(N), static_cast<unsigned>(threads), 0, ctx.stream()>>>(
        losses.as<float>(), correct.as<float>(), static_cast<__nv_bfloat16*>(logits.data), targets.as<int32_t>(),
        static_cast<int>(vocabulary), static_cast<int>(P), gradient_scale);
  };
  if (P <= 128 * kPack)
    launch(cross_entropy_kernel<128, 1>, 128);
  else if (P <= 512 * 4 * kPack)
    launch(cross_entropy_kernel<512, 4>, 512);
  else if (P <= 512 * 14 * kPack)
    launch(cross_entropy_kernel<512, 14>, 512);
  else
    launch(cross_entropy_kernel<512, 0>, 512);
  check_launch("cross_entropy", ctx.stream());
}

void add_losses(Context& ctx, Tensor sums, ConstTensor losses, ConstTensor correct, ConstTensor targets, int64_t n) {
  add_losses_kernel<<<1, kSumThreads, 0, ctx.stream()>>>(sums.as<double>(), losses.as<float>(), correct.as<float>(),
                                                         targets.as<int32_t>(), n);
  check_launch("add_losses", ctx.stream());
}

}  // namespace scfa::gpu

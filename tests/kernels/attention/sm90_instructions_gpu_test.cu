// The building blocks of the Hopper kernels, each alone, against products on the host: every way an operand is read,
// every width, parts of tiles, stores back to shared memory, and a pipeline of stages between warpgroups.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/attention/sm90/attention.h"
#include "kernels/sm90/mbarrier.cuh"
#include "kernels/sm90/probe.h"
#include "kernels/sm90/wgmma.cuh"
#include "support/array.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::gpu {
namespace {

using test::Array;
using test::GpuCopy;
using Bf16 = __nv_bfloat16;

// By all threads: rows of global memory into a tile.
template <int kRows, int kD>
__device__ void load_tile(uint32_t tile, const Bf16* from) {
  for (int i = threadIdx.x; i < kRows * kD / 8; i += blockDim.x)
    copy_async<16>(Tile<kRows, kD>::at(tile, i / (kD / 8), i % (kD / 8)), from + i * 8, true);
  commit_copies();
  wait_copies<0>();
  fence_proxy_async();
  __syncthreads();
}
[[maybe_unused]] __device__ uint32_t shared_tiles() {
  extern __shared__ unsigned char shared[];
  return (shared_address(shared) + 1023u) & ~1023u;
}
template <int kN>
__device__ void store(float* to, const float (&d)[kN / 2], int group_row = 0) {
  for (int i = 0; i < kN / 2; ++i) {
    const int thread = threadIdx.x % kWarpgroupSize;
    const int row = group_row + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    to[row * kN + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i];
  }
}

template <int kN, int kRowsA, int kRowsB, int kD>
__global__ void __launch_bounds__(kWarpgroupSize)
    gemm_ss_kernel(const Bf16* a, const Bf16* b, int first, int first_b, float* to) {
#ifdef SCFA_SM90A
  const uint32_t tile_a = shared_tiles(), tile_b = tile_a + Tile<kRowsA, kD>::kBytes;
  load_tile<kRowsA, kD>(tile_a, a);
  load_tile<kRowsB, kD>(tile_b, b);
  float d[kN / 2];
  for (float& x : d) x = NAN;  // what was there must not matter
  warpgroup_fence_operand(d);
  warpgroup_arrive();
  gemm_ss<kN, kRowsA, kRowsB, kD>(d, tile_a, first, tile_b + first_b * 128);
  warpgroup_commit();
  warpgroup_wait<0>();
  warpgroup_fence_operand(d);
  store<kN>(to, d);
#endif
}

// Twice the product: once as the first of a sum, once added.
template <int kK, int kRowsB, int kD>
__global__ void __launch_bounds__(kWarpgroupSize) gemm_rs_kernel(const float* scores, const Bf16* b, float* to) {
#ifdef SCFA_SM90A
  const uint32_t tile = shared_tiles();
  load_tile<kRowsB, kD>(tile, b);
  float s[kK / 2], d[kD / 2];
  for (int i = 0; i < kK / 2; ++i) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
    s[i] = scores[row * kK + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2];
  }
  uint32_t operand[kK / 16][4];
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) accumulator_to_a_fragment(operand[k], s, k);
  for (float& x : d) x = NAN;
  warpgroup_fence_operand(d);
  warpgroup_fence_operand(operand);
  warpgroup_arrive();
  gemm_rs<kK, kRowsB, kD>(d, operand, tile, false);
  gemm_rs<kK, kRowsB, kD>(d, operand, tile, true);
  warpgroup_commit();
  warpgroup_wait<0>();
  warpgroup_fence_operand(d);
  store<kD>(to, d);
#endif
}

template <int kK, int kD>
__global__ void __launch_bounds__(kWarpgroupSize)
    gemm_ss_tn_kernel(const Bf16* a, int panel, const Bf16* b, float* to) {
#ifdef SCFA_SM90A
  const uint32_t tile_a = shared_tiles(), tile_b = tile_a + Tile<kK, 128>::kBytes;
  load_tile<kK, 128>(tile_a, a);
  load_tile<kK, kD>(tile_b, b);
  float d[kD / 2];
  for (float& x : d) x = NAN;
  warpgroup_fence_operand(d);
  warpgroup_arrive();
  gemm_ss_tn<kK, kD>(d, tile_a + panel * (kK * 128), tile_b);
  warpgroup_commit();
  warpgroup_wait<0>();
  warpgroup_fence_operand(d);
  store<kD>(to, d);
#endif
}

template <int kD>
__global__ void __launch_bounds__(kWarpgroupSize) stmatrix_kernel(const float* from, Bf16* to) {
#ifdef SCFA_SM90A
  const uint32_t tile = shared_tiles();
  float s[kD / 2];
  for (int i = 0; i < kD / 2; ++i) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
    s[i] = from[row * kD + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2];
  }
  const int lane = threadIdx.x % 32;
  const uint32_t corner = Tile<64, kD>::at(tile, threadIdx.x / 32 * 16 + lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t packed[4];
    accumulator_to_a_fragment(packed, s, k);
    stmatrix(Tile<64, kD>::step(corner, 0, 2 * k), packed);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 64 * kD / 8; i += kWarpgroupSize)
    reinterpret_cast<uint4*>(to)[i] = load_chunk(Tile<64, kD>::at(tile, i / (kD / 8), i % (kD / 8)));
#endif
}

// One warpgroup copies tiles of b into the stages of a pipeline, two multiply rows of a with each and add up.
constexpr int kPipelineSteps = 37;
template <int kStages>
__global__ void __launch_bounds__(3 * kWarpgroupSize, 1) pipeline_kernel(const Bf16* a, const Bf16* b, float* to) {
#ifdef SCFA_SM90A
  __shared__ alignas(8) uint64_t full[kStages], empty[kStages];
  using TileB = Tile<128, 64>;
  const uint32_t tile_a = shared_tiles(), stages = tile_a + Tile<128, 64>::kBytes;
  load_tile<128, 64>(tile_a, a);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(shared_address(&full[i]), kWarpgroupSize);
      mbarrier_init(shared_address(&empty[i]), 8);
    }
    fence_barrier_init();
  }
  __syncthreads();
  PipelineState<kStages> pipeline;
  if (threadIdx.x < kWarpgroupSize) {
    setmaxnreg_dec<40>();
    for (int step = 0; step < kPipelineSteps; ++step, pipeline.next()) {
      mbarrier_wait(pipeline.barrier(shared_address(empty)), pipeline.parity() ^ 1);
      for (int i = threadIdx.x; i < 128 * 8; i += kWarpgroupSize)
        copy_async<16>(TileB::at(stages + pipeline.stage * TileB::kBytes, i / 8, i % 8), b + step * 128 * 64 + i * 8,
                       true);
      mbarrier_arrive_on_copies(pipeline.barrier(shared_address(full)));
    }
    wait_copies<0>();
  } else {
    setmaxnreg_inc<232>();
    const int group = threadIdx.x / kWarpgroupSize - 1;
    float sum[64] = {};
    for (int step = 0; step < kPipelineSteps; ++step, pipeline.next()) {
      mbarrier_wait(pipeline.barrier(shared_address(full)), pipeline.parity());
      fence_proxy_async();
      float d[64];
      warpgroup_fence_operand(d);
      warpgroup_arrive();
      gemm_ss<128, 128, 128, 64>(d, tile_a, 64 * group, stages + pipeline.stage * TileB::kBytes);
      warpgroup_commit();
      warpgroup_wait<0>();
      warpgroup_fence_operand(d);
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(pipeline.barrier(shared_address(empty)));
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[i] += d[i];
    }
    store<128>(to, sum, 64 * group);
  }
#endif
}

class WgmmaGpu : public test::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!sm90::probe().usable) GTEST_SKIP() << sm90::probe().reason;
    ctx_ = std::make_unique<Context>(Device::kGpu);
  }

  template <class... Kernel, class... Arguments>
  void launch(int threads, int bytes, void (*kernel)(Kernel...), Arguments... arguments) {
    ASSERT_EQ(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), cudaSuccess);
    kernel<<<1, threads, bytes, ctx_->stream()>>>(arguments...);
    check_launch("test", ctx_->stream());
    ctx_->synchronize();
  }
  static const Bf16* pointer(const GpuCopy& t) { return static_cast<const Bf16*>(Tensor(t).data); }

  std::unique_ptr<Context> ctx_;
};

// rows of a times rows of b, transposed.
std::vector<double> product(const Array& a, int64_t first_a, int64_t rows_a, const Array& b, int64_t first_b,
                            int64_t rows_b) {
  const std::vector<double> x = a.values(), y = b.values();
  const int64_t D = a.view().size(1);
  std::vector<double> out;
  for (int64_t i = 0; i < rows_a; ++i)
    for (int64_t j = 0; j < rows_b; ++j) {
      double sum = 0;
      for (int64_t d = 0; d < D; ++d)
        sum += x[static_cast<size_t>((first_a + i) * D + d)] * y[static_cast<size_t>((first_b + j) * D + d)];
      out.push_back(sum);
    }
  return out;
}

TEST_F(WgmmaGpu, RowsTimesRows) {
  const auto check = [&]<int kN, int kRowsA, int kRowsB, int kD>(int first, int first_b) {
    SCOPED_TRACE(concat(kN, " ", kRowsA, " ", kRowsB, " ", kD, " ", first, " ", first_b));
    Array a(DType::kBF16, {kRowsA, kD}), b(DType::kBF16, {kRowsB, kD}), d(DType::kF32, {64, kN});
    a.fill_normal(1), b.fill_normal(2);
    const GpuCopy on_a(*ctx_, a), on_b(*ctx_, b), on_d(*ctx_, d);
    launch(kWarpgroupSize, (kRowsA + kRowsB) * kD * 2 + 1024, gemm_ss_kernel<kN, kRowsA, kRowsB, kD>, pointer(on_a),
           pointer(on_b), first, first_b, Tensor(on_d).as<float>());
    on_d.download(d);
    EXPECT_TRUE(test::close(d.values(), product(a, first, 64, b, first_b, kN), 1e-5));
  };
  check.operator()<64, 64, 64, 64>(0, 0);
  check.operator()<128, 128, 128, 64>(0, 0);
  check.operator()<128, 128, 128, 64>(64, 0);
  check.operator()<64, 128, 128, 64>(64, 64);
  check.operator()<64, 128, 128, 64>(40, 24);  // a part may start at any multiple of eight rows
  check.operator()<64, 128, 64, 128>(64, 0);
  check.operator()<48, 192, 96, 128>(64, 0);
  check.operator()<96, 192, 96, 128>(128, 0);
  check.operator()<128, 128, 128, 128>(0, 0);
  check.operator()<64, 128, 128, 128>(64, 64);
}

TEST_F(WgmmaGpu, ScoresTimesColumns) {
  const auto check = [&]<int kK, int kRowsB, int kD>() {
    SCOPED_TRACE(concat(kK, " ", kRowsB, " ", kD));
    Array scores(DType::kF32, {64, kK}), rounded(DType::kBF16, {64, kK}), b(DType::kBF16, {kRowsB, kD}), d({64, kD});
    scores.fill_normal(3);
    rounded.assign(scores.values());
    b.fill_normal(4);
    const GpuCopy on_scores(*ctx_, scores), on_b(*ctx_, b), on_d(*ctx_, d);
    launch(kWarpgroupSize, kRowsB * kD * 2 + 1024, gemm_rs_kernel<kK, kRowsB, kD>,
           static_cast<const float*>(Tensor(on_scores).data), pointer(on_b), Tensor(on_d).as<float>());
    on_d.download(d);
    const std::vector<double> s = rounded.values(), y = b.values();
    std::vector<double> want(64 * kD);
    for (size_t i = 0; i < 64; ++i)
      for (size_t k = 0; k < kK; ++k)
        for (size_t j = 0; j < kD; ++j) want[i * kD + j] += 2 * s[i * kK + k] * y[k * kD + j];
    EXPECT_TRUE(test::close(d.values(), want, 1e-5));
  };
  check.operator()<64, 64, 64>();
  check.operator()<128, 128, 64>();
  check.operator()<64, 128, 64>();  // the first rows only
  check.operator()<64, 64, 128>();
  check.operator()<128, 128, 128>();
  check.operator()<48, 96, 128>();
  check.operator()<96, 96, 128>();
}

TEST_F(WgmmaGpu, ColumnsTimesColumns) {
  const auto check = [&]<int kK, int kD>(int panel) {
    SCOPED_TRACE(concat(kK, " ", kD, " ", panel));
    Array a(DType::kBF16, {kK, 128}), b(DType::kBF16, {kK, kD}), d({64, kD});
    a.fill_normal(8), b.fill_normal(9);
    const GpuCopy on_a(*ctx_, a), on_b(*ctx_, b), on_d(*ctx_, d);
    launch(kWarpgroupSize, kK * (128 + kD) * 2 + 1024, gemm_ss_tn_kernel<kK, kD>, pointer(on_a), panel, pointer(on_b),
           Tensor(on_d).as<float>());
    on_d.download(d);
    const std::vector<double> x = a.values(), y = b.values();
    std::vector<double> want(64 * kD);
    for (size_t k = 0; k < kK; ++k)
      for (size_t i = 0; i < 64; ++i)
        for (size_t j = 0; j < kD; ++j)
          want[i * kD + j] += x[k * 128 + 64 * static_cast<size_t>(panel) + i] * y[k * kD + j];
    EXPECT_TRUE(test::close(d.values(), want, 1e-5));
  };
  check.operator()<64, 64>(0);
  check.operator()<128, 64>(1);
  check.operator()<192, 64>(0);
  check.operator()<192, 64>(1);
  check.operator()<128, 128>(1);
}

TEST_F(WgmmaGpu, OperandsGoBackToSharedMemory) {
  const auto check = [&]<int kD>() {
    Array from(DType::kF32, {64, kD}), to(DType::kBF16, {64, kD}), want(DType::kBF16, {64, kD});
    from.fill_normal(5);
    want.assign(from.values());
    const GpuCopy on_from(*ctx_, from), on_to(*ctx_, to);
    launch(kWarpgroupSize, 64 * kD * 2 + 1024, stmatrix_kernel<kD>, static_cast<const float*>(Tensor(on_from).data),
           static_cast<Bf16*>(Tensor(on_to).data));
    on_to.download(to);
    EXPECT_TRUE(to.same_bits(want)) << kD;
  };
  check.operator()<64>();
  check.operator()<128>();
}

TEST_F(WgmmaGpu, PipelinesPassTilesBetweenWarpgroups) {
  Array a(DType::kBF16, {128, 64}), b(DType::kBF16, {kPipelineSteps * 128, 64}), d({128, 128});
  a.fill_normal(6), b.fill_normal(7);
  const GpuCopy on_a(*ctx_, a), on_b(*ctx_, b), on_d(*ctx_, d);
  std::vector<double> want(128 * 128);
  const std::vector<double> all = product(a, 0, 128, b, 0, kPipelineSteps * 128);
  for (size_t i = 0; i < 128; ++i)
    for (size_t j = 0; j < 128 * kPipelineSteps; ++j) want[i * 128 + j % 128] += all[i * 128 * kPipelineSteps + j];
  const auto check = [&]<int kStages>() {
    launch(3 * kWarpgroupSize, (1 + kStages) * 128 * 64 * 2 + 1024, pipeline_kernel<kStages>, pointer(on_a),
           pointer(on_b), Tensor(on_d).as<float>());
    on_d.download(d);
    EXPECT_TRUE(test::close(d.values(), want, 1e-5)) << kStages;
  };
  check.operator()<1>();
  check.operator()<2>();
  check.operator()<3>();
}

// Waits at a barrier at which nobody arrives.
__global__ void __launch_bounds__(32) stuck_kernel() {
#ifdef SCFA_SM90A
  __shared__ uint64_t barrier;
  if (threadIdx.x == 0) mbarrier_init(shared_address(&barrier), 1);
  __syncwarp();
  mbarrier_wait(shared_address(&barrier), 0);
#endif
}

void run_stuck() {
  arm_spins();
  const Context ctx(Device::kGpu);
  try {
    stuck_kernel<<<1, 32, 0, ctx.stream()>>>();
    check_launch("stuck", ctx.stream());
    synchronize(ctx.stream(), "stuck");
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(7);
  }
  std::_Exit(0);
}

// In a process of its own: what a trap leaves of a CUDA context is of no use.
TEST(BoundedSpinsDeathTest, AWaitWithoutEndIsAnErrorThatSaysWhere) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  if (!kBoundedSpins) GTEST_SKIP() << "built without SCFA_BOUNDED_SPINS";
  if (!available() || !sm90::probe().usable) GTEST_SKIP() << "no Hopper GPU";
  EXPECT_EXIT(run_stuck(), testing::ExitedWithCode(7),
              "stuck: .*block 0, thread [0-9]+ waited too long for a barrier in shared memory");
}

}  // namespace
}  // namespace scfa::gpu

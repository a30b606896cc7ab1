// mbarriers in shared memory, and where a producer or consumer is in a circular buffer of stages. See PTX ISA 8.0,
// "mbarrier"; PipelineState is that of CUTLASS.
#pragma once
#include "kernels/sm90/bounded_spin.cuh"

namespace scfa::gpu {

// An mbarrier (8 bytes) that completes a phase with every `count` arrivals.
__device__ inline void mbarrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After the last mbarrier_init, before a __syncthreads().
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// One arrival for a whole warp, after all its lanes have come here.
[[maybe_unused]] __device__ inline void mbarrier_arrive_warp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
}
// Arrives once all cp.async that this thread has started so far are complete, of whatever use (CUTLASS:
// cpasync_barrier_arrive_noinc).
__device__ inline void mbarrier_arrive_on_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Waits until the phase of that parity is complete. The first phase has parity 0; a wait for parity 1 passes at once in
// the first phase.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  if constexpr (kBoundedSpins) {
    for (Spin spin(SpinSite::kBarrier, barrier);; spin.again()) {
      int done;
      asm volatile(
          "{\n.reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.b32 %0, 1, 0, done;\n}"
          : "=r"(done)
          : "r"(barrier), "r"(parity)
          : "memory");
      if (done != 0) return;
    }
  }
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait%=;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A position in a circular buffer of kStages stages, whose barriers lie side by side. Producers and consumers both
// start in phase 0 (in CUTLASS producers start in phase 1): a consumer waits for the full barrier with parity(), a
// producer for the empty barrier with parity() ^ 1, which passes at once in the first round.
template <int kStages>
struct PipelineState {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  __device__ uint32_t parity() const { return phase; }
  __device__ uint32_t barrier(uint32_t first) const { return first + 8 * stage; }
};

}  // namespace scfa::gpu

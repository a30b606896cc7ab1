// Waiting inside kernels. A bug in the protocol between blocks or warpgroups would wait forever. In builds with
// SCFA_BOUNDED_SPINS every wait for an mbarrier or a semaphore has a limit: the kernel writes where it waited to memory
// that the host can read (core/gpu.h, SpinReport) and ends with a trap, and the host's next check throws an Error that
// says so. In other builds this is nothing.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "core/gpu.h"

namespace scfa::gpu {

#ifdef SCFA_BOUNDED_SPINS
inline constexpr bool kBoundedSpins = true;
#else
inline constexpr bool kBoundedSpins = false;
#endif

// Where kernels of this translation unit report to; set by arm_spins().
[[maybe_unused]] static __device__ SpinReport* spin_report_address;

class Spin {
 public:
  __device__ Spin(SpinSite site, uint32_t detail) : site_(site), detail_(detail) {
    if constexpr (kBoundedSpins) begun_ = clock64();
  }
  // To be called each time round a loop that waits.
  __device__ void again() const {
    if constexpr (kBoundedSpins)
      if (clock64() - begun_ > kLimit) give_up();
  }

 private:
  static constexpr long long kLimit = 20'000'000'000;  // cycles: ten seconds at 2 GHz

  __device__ __noinline__ void give_up() const {
    SpinReport* report = spin_report_address;
    if (atomicCAS_system(&report->site, 0u, static_cast<unsigned>(site_)) == 0) {
      report->detail = detail_;
      report->block = blockIdx.x;
      report->thread = threadIdx.x;
    }
    __threadfence_system();
    asm volatile("trap;");
  }

  long long begun_ = 0;
  SpinSite site_;
  uint32_t detail_;
};

// Before the first launch of a kernel of this translation unit that waits.
inline void arm_spins() {
  if constexpr (kBoundedSpins) {
    static const bool armed = [] {
      SpinReport* report = spin_report();
      return cudaMemcpyToSymbol(spin_report_address, &report, sizeof report) == cudaSuccess;
    }();
    require(armed, "bounded spins: the kernels cannot be told where to report");
  }
}

}  // namespace scfa::gpu

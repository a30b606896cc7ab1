// Copies of contiguous bytes between global and shared memory by one thread (cp.async.bulk). See PTX ISA 8.0,
// "Asynchronous copy operations". Addresses are multiples of 16, and so are the bytes. Copies into shared memory count
// their bytes at an mbarrier.
#pragma once
#include <cstdint>

namespace scfa::gpu {

// One arrival, and bytes that copies will still bring before the phase can complete.
__device__ inline void mbarrier_expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
// The other way. What threads wrote to shared memory is read by the async proxy: fence_proxy_async() comes between.
__device__ inline void bulk_store(void* to, uint32_t from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all committed stores of this thread have read shared memory.
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

}  // namespace scfa::gpu

// The few things host code asks of the CUDA runtime. gpu.cpp implements them; gpu_none.cpp stands in for it in a build
// without CUDA, where available() is false and the others throw.
#pragma once
#include <cstddef>
#include <string>

struct CUstream_st;

namespace scfa {

using Stream = CUstream_st*;

namespace gpu {

bool available();           // a usable GPU, found by asking the driver once
std::string description();  // name and memory of the GPU, or why there is none
void* allocate(size_t bytes);
void release(void* data) noexcept;
void copy_to_device(void* device, const void* host, size_t bytes, Stream stream);
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream);  // waits for the stream
Stream create_stream();
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream, const char* what);

// After every launch: throws Error naming the op if the launch failed. SCFA_SYNC=1 in the environment makes it wait for
// the kernel too, so that a fault is reported by the op that caused it.
void check_launch(const char* op, Stream stream);

}  // namespace gpu
}  // namespace scfa

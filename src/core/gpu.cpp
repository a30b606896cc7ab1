#include "core/gpu.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace scfa::gpu {

namespace {
void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear it: the exception carries it from here on
  fail(what, ": ", cudaGetErrorString(status));
}
}  // namespace

bool available() {
  static const bool found = [] {
    int count = 0;
    const bool ok = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    cudaGetLastError();
    return ok;
  }();
  return found;
}

std::string description() {
  if (!available()) return "no GPU that the CUDA driver can use";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "reading the GPU's properties");
  return concat(properties.name, ", ", properties.totalGlobalMem >> 20, " MiB");
}

void* allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status != cudaSuccess) {
    cudaGetLastError();
    fail("not enough GPU memory for ", bytes / 1000000, " MB: ", cudaGetErrorString(status));
  }
  return data;
}

void release(void* data) noexcept {
  cudaFree(data);
}

void copy_to_device(void* device, const void* host, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), "copy to the GPU");
}

void copy_to_host(void* host, const void* device, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "copy from the GPU");
  synchronize(stream, "copy from the GPU");
}

Stream create_stream() {
  Stream stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  return stream;
}

void destroy_stream(Stream stream) noexcept {
  cudaStreamDestroy(stream);
}

void synchronize(Stream stream, const char* what) {
  check(cudaStreamSynchronize(stream), what);
}

void check_launch(const char* op, Stream stream) {
  static const bool sync = [] {
    const char* value = std::getenv("SCFA_SYNC");
    return value != nullptr && std::strcmp(value, "0") != 0;
  }();
  check(cudaGetLastError(), op);
  if (sync) synchronize(stream, op);
}

}  // namespace scfa::gpu

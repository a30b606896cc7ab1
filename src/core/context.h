// Where ops run: a device, its stream and, later, its BLAS handles. Passed to every op; owns no tensor.
#pragma once
#include "core/gpu.h"
#include "core/tensor.h"

namespace scfa {

// True in builds that have the CUDA Toolkit; CMake sets it for everything that includes this header.
#ifdef SCFA_CUDA
inline constexpr bool kCudaBuild = true;
#else
inline constexpr bool kCudaBuild = false;
#endif

class Context {
 public:
  explicit Context(Device device = Device::kCpu);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  bool on_gpu() const { return device_ == Device::kGpu; }
  Stream stream() const { return stream_; }
  void synchronize() const;

  // Throws Error naming the op and the tensor unless every tensor, empty ones aside, lies on this device.
  void require_here(const char* op, std::initializer_list<ConstTensor> tensors) const;

  // For ops whose GPU form does not exist yet.
  void require_cpu(const char* op) const { require(!on_gpu(), op, ": has no GPU form yet; set \"device\": \"cpu\""); }

 private:
  Device device_;
  Stream stream_ = nullptr;
};

}  // namespace scfa

// Where ops run: a device, its streams, the workspace of the main one, and a profiler. Passed to every op; owns no
// tensor.
#pragma once
#include <memory>
#include <string>
#include <utility>

#include "core/buffer.h"
#include "core/gpu.h"
#include "core/profiler.h"
#include "core/streams.h"
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
  // GPU memory that every context holds for its ops: cuBLASLt's workspace, partial sums.
  static constexpr int64_t kWorkspaceBytes = 64 << 20;

  explicit Context(Device device = Device::kCpu);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  bool on_gpu() const { return device_ == Device::kGpu; }
  Stream stream() const { return stream_; }  // the main one, unless an OnStream says otherwise
  bool on_main_stream() const { return stream_ == streams_.main; }
  Stream copy_stream() const { return streams_.copy; }  // for copies beside the work on stream()
  Stream comm_stream() const { return streams_.comm; }  // for collectives beside it
  void synchronize() const;

  // GPU only: a stream for work beside that on stream(): what is launched on it comes after all that was launched on
  // stream() before, and what is launched on stream() after join_side() comes after it.
  Stream fork_side() const;
  void join_side() const;

  // GPU only: scratch of kWorkspaceBytes, 256-byte aligned, for one op at a time on the main stream; what an op leaves
  // there the next one overwrites. Throws Error on another stream.
  void* workspace() const;

  // State of the GEMM library, made by the first op that needs it and destroyed with the context.
  std::shared_ptr<void>& blas() { return blas_; }

  // zero: sets all elements to zero. copy: from either device to this one, or from this one to the host; both tensors
  // have the same number of elements and dtype. Tensors must be contiguous. Asynchronous on stream(), except that
  // copies to the host wait.
  void zero(const Tensor& tensor) const;
  void copy(const Tensor& to, const ConstTensor& from) const;

  // Throws Error naming the op and the tensor unless every tensor, empty ones aside, lies on this device.
  void require_here(const char* op, std::initializer_list<ConstTensor> tensors) const;

  // For ops whose GPU implementation does not exist yet.
  void require_cpu(const char* op) const {
    require(!on_gpu(), op, ": has no GPU implementation yet; set \"device\": \"cpu\"");
  }

  Profiler& profiler() { return profiler_; }

 private:
  friend class OnStream;
  Device device_;
  Streams streams_;
  Stream stream_;
  Buffer workspace_;
  std::shared_ptr<void> blas_;
  Profiler profiler_;
};

// Launches ops on another stream of a context for as long as it lives: ops that need no workspace.
class OnStream {
 public:
  OnStream(Context& ctx, Stream stream) : ctx_(ctx), before_(std::exchange(ctx.stream_, stream)) {}
  ~OnStream() { ctx_.stream_ = before_; }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  Context& ctx_;
  Stream before_;
};

// Type of activations, and of weights in GEMMs: bf16 on the GPU, f32 on the CPU.
inline DType activation_type(Device device) {
  return device == Device::kGpu ? DType::kBF16 : DType::kF32;
}

// Throws Error naming the op and the argument unless an activation or weight has the type that the device computes in.
inline void require_activation(const Context& ctx, const char* op, const char* argument, const ConstTensor& t) {
  if (t.data != nullptr && t.dtype != activation_type(ctx.device()))
    fail(op, ": ", argument, " must be ", name_of(activation_type(ctx.device())), " on the ", name_of(ctx.device()),
         ", not ", t.describe());
}

}  // namespace scfa

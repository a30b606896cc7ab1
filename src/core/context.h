// Where ops run: a device, its streams, a workspace, and times of named sections. Passed to every op; owns no tensor.
#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
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
  // Of a GPU's memory that every context holds for its ops: cuBLASLt's workspace, partial sums.
  static constexpr int64_t kWorkspaceBytes = 64 << 20;

  explicit Context(Device device = Device::kCpu);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  bool on_gpu() const { return device_ == Device::kGpu; }
  Stream stream() const { return stream_; }
  Stream copy_stream() const { return copy_stream_; }  // for copies beside the work on stream()
  void synchronize() const;

  // GPU only: a stream for work beside that on stream(): what is launched on it comes after all that was launched on
  // stream() before, and what is launched on stream() after join_side() comes after it.
  Stream fork_side() const;
  void join_side() const;

  // GPU only: scratch of kWorkspaceBytes, 256-byte aligned, for one op at a time; what an op leaves there the next one
  // overwrites.
  void* workspace() const { return workspace_.data(); }

  // What a library keeps with the context, made by the op that needs it and destroyed with the context.
  std::shared_ptr<void>& blas() { return blas_; }

  // All elements zero; a copy of equal size and type from either device to this one or from this one to the host. A
  // tensor must be contiguous. Asynchronous on stream(), but for copies to the host, which wait.
  void zero(const Tensor& tensor) const;
  void copy(const Tensor& to, const ConstTensor& from) const;

  // Throws Error naming the op and the tensor unless every tensor, empty ones aside, lies on this device.
  void require_here(const char* op, std::initializer_list<ConstTensor> tensors) const;

  // For ops whose GPU form does not exist yet.
  void require_cpu(const char* op) const { require(!on_gpu(), op, ": has no GPU form yet; set \"device\": \"cpu\""); }

  // While on, every Section's time is added up under its name: on a GPU the time between its first and last kernel.
  void collect_times(bool on) { collecting_ = on; }
  std::map<std::string, double> take_times();  // seconds, since the last call; waits for the device

 private:
  friend class Section;
  struct Span {
    const char* name;
    Event from, to;
  };
  Event next_event();

  Device device_;
  Stream stream_ = nullptr, copy_stream_ = nullptr, side_stream_ = nullptr;
  Event forked_ = nullptr, joined_ = nullptr;
  Buffer workspace_;
  std::shared_ptr<void> blas_;
  bool collecting_ = false;
  std::map<std::string, double> times_;  // CPU
  std::vector<Span> spans_;              // GPU, since the last take_times
  std::vector<Event> events_;            // all that were made; the first used_events_ are in spans_
  size_t used_events_ = 0;
};

// What flows between ops, and weights in products: bf16 on the GPU, f32 on the CPU.
inline DType activation_type(Device device) {
  return device == Device::kGpu ? DType::kBF16 : DType::kF32;
}

// Throws Error naming the op and the argument unless an activation or weight has the type that the device computes in.
inline void require_activation(const Context& ctx, const char* op, const char* argument, const ConstTensor& t) {
  if (t.data != nullptr && t.dtype != activation_type(ctx.device()))
    fail(op, ": ", argument, " must be ", name_of(activation_type(ctx.device())), " on the ", name_of(ctx.device()),
         ", not ", t.describe());
}

// "last op: NAME", of the Section opened last in any context of the program; on a GPU it has been launched, not ended,
// which the text says. Safe to call from any thread.
std::string describe_last_op();

// A stretch of work with a name, for as long as it lives: a range in profilers (NVTX) and, while the context collects
// times, a time. Ops open one of their own name. The name must outlive the context.
class Section {
 public:
  Section(Context& ctx, const char* name);
  ~Section();
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Context& ctx_;
  const char* name_;
  bool timed_;
  Event from_ = nullptr;
  Clock::time_point began_;
};

}  // namespace scfa

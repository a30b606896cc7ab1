#include "core/context.h"

#include <atomic>
#include <cstring>
#include <utility>

namespace scfa {

namespace {
std::atomic<const char*> last_op{nullptr};
std::atomic<bool> last_on_gpu{false};
}  // namespace

std::string describe_last_op() {
  const char* name = last_op;
  if (name == nullptr) return "no op was started yet";
  if (!last_on_gpu) return concat("last op: ", name);
  return concat("last op launched: ", name, ", with SCFA_SYNC=1 it is the one that does not end");
}

Context::Context(Device device) : device_(device) {
  if (!on_gpu()) return;
  require(gpu::available(), "device gpu: ", gpu::description());
  stream_ = gpu::create_stream();
  copy_stream_ = gpu::create_stream();
  side_stream_ = gpu::create_stream();
  forked_ = gpu::create_event(false);
  joined_ = gpu::create_event(false);
  workspace_ = Buffer(kWorkspaceBytes, device);
}

Context::~Context() {
  if (stream_ == nullptr) return;
  for (Event event : events_) gpu::destroy_event(event);
  for (Event event : {forked_, joined_}) gpu::destroy_event(event);
  gpu::destroy_stream(side_stream_);
  gpu::destroy_stream(copy_stream_);
  gpu::destroy_stream(stream_);
}

void Context::require_here(const char* op, std::initializer_list<ConstTensor> tensors) const {
  for (const ConstTensor& tensor : tensors)
    if (tensor.data != nullptr && tensor.device != device_)
      fail(op, ": runs on the ", name_of(device_), ", but a tensor is ", tensor.describe());
}

void Context::synchronize() const {
  if (on_gpu()) gpu::synchronize(stream_, "synchronize");
}

Stream Context::fork_side() const {
  gpu::record(forked_, stream_);
  gpu::wait(side_stream_, forked_);
  return side_stream_;
}

void Context::join_side() const {
  gpu::record(joined_, side_stream_);
  gpu::wait(stream_, joined_);
}

void Context::zero(const Tensor& tensor) const {
  require_here("zero", {tensor});
  require(tensor.contiguous(), "zero: tensor must be contiguous, not ", tensor.describe());
  const auto bytes = static_cast<size_t>(tensor.bytes());
  if (bytes == 0) return;
  if (on_gpu())
    gpu::fill(tensor.data, 0, bytes, stream_);
  else
    std::memset(tensor.data, 0, bytes);
}

void Context::copy(const Tensor& to, const ConstTensor& from) const {
  require(to.contiguous() && from.contiguous() && to.dtype == from.dtype && to.numel() == from.numel(), "copy: from ",
          from.describe(), " to ", to.describe());
  require(to.device == Device::kCpu || to.device == device_, "copy: to ", to.describe());
  require(from.device == Device::kCpu || from.device == device_, "copy: from ", from.describe());
  const auto bytes = static_cast<size_t>(to.bytes());
  if (bytes == 0) return;
  if (to.device == Device::kCpu && from.device == Device::kCpu)
    std::memcpy(to.data, from.data, bytes);
  else if (to.device == Device::kCpu)
    gpu::copy_to_host(to.data, from.data, bytes, stream_);
  else if (from.device == Device::kCpu)
    gpu::copy_to_device(to.data, from.data, bytes, stream_);
  else
    gpu::copy_on_device(to.data, from.data, bytes, stream_);
}

Event Context::next_event() {
  if (used_events_ == events_.size()) events_.push_back(gpu::create_event(true));
  return events_[used_events_++];
}

std::map<std::string, double> Context::take_times() {
  if (on_gpu()) {
    synchronize();
    for (const Span& span : spans_) times_[span.name] += gpu::milliseconds_between(span.from, span.to) * 1e-3;
    spans_.clear();
    used_events_ = 0;
  }
  return std::exchange(times_, {});
}

Section::Section(Context& ctx, const char* name) : ctx_(ctx), name_(name), timed_(ctx.collecting_) {
  last_op.store(name, std::memory_order_relaxed);
  last_on_gpu.store(ctx.on_gpu(), std::memory_order_relaxed);
  if (ctx_.on_gpu()) gpu::push_range(name);
  if (!timed_) return;
  if (ctx_.on_gpu()) {
    from_ = ctx_.next_event();
    gpu::record(from_, ctx_.stream_);
  } else {
    began_ = Clock::now();
  }
}

Section::~Section() {
  if (ctx_.on_gpu()) gpu::pop_range();
  if (!timed_) return;
  if (!ctx_.on_gpu()) {
    ctx_.times_[name_] += std::chrono::duration<double>(Clock::now() - began_).count();
    return;
  }
  try {  // a device that failed reports it at the next launch
    Event to = ctx_.next_event();
    gpu::record(to, ctx_.stream_);
    ctx_.spans_.push_back({name_, from_, to});
  } catch (const std::exception&) {
  }
}

}  // namespace scfa

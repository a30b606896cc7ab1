#include "core/context.h"

#include <cstring>

namespace scfa {

namespace {
Device required(Device device) {
  if (device == Device::kGpu) require(gpu::available(), "device gpu: ", gpu::description());
  return device;
}
}  // namespace

Context::Context(Device device) : device_(device), streams_(required(device) == Device::kGpu), stream_(streams_.main) {
  if (on_gpu()) workspace_ = Buffer(kWorkspaceBytes, device);
}

Context::~Context() = default;

void* Context::workspace() const {
  require(on_main_stream(), "workspace: is for ops on the main stream");
  return workspace_.data();
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
  gpu::record(streams_.forked, stream_);
  gpu::wait(streams_.side, streams_.forked);
  return streams_.side;
}

void Context::join_side() const {
  gpu::record(streams_.joined, streams_.side);
  gpu::wait(stream_, streams_.joined);
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

}  // namespace scfa

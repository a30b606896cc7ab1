#include "core/context.h"

namespace scfa {

Context::Context(Device device) : device_(device) {
  if (!on_gpu()) return;
  require(gpu::available(), "device gpu: ", gpu::description());
  stream_ = gpu::create_stream();
}

Context::~Context() {
  if (stream_ != nullptr) gpu::destroy_stream(stream_);
}

void Context::require_here(const char* op, std::initializer_list<ConstTensor> tensors) const {
  for (const ConstTensor& tensor : tensors)
    require(tensor.data == nullptr || tensor.device == device_, op, ": runs on the ", name_of(device_),
            ", but a tensor is ", tensor.data == nullptr ? "empty" : tensor.describe());
}

void Context::synchronize() const {
  if (on_gpu()) gpu::synchronize(stream_, "synchronize");
}

}  // namespace scfa

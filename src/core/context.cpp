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

void Context::synchronize() const {
  if (on_gpu()) gpu::synchronize(stream_, "synchronize");
}

}  // namespace scfa

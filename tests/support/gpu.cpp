#include "support/gpu.h"

#include <cstdlib>
#include <cstring>

namespace scfa::test {

void skip_without_gpu() {
  if (gpu::available()) return;
  const char* required = std::getenv("SCFA_REQUIRE_GPU");
  if (required != nullptr && std::strcmp(required, "1") == 0)
    FAIL() << "SCFA_REQUIRE_GPU=1, but there is no GPU to test on: " << gpu::description();
  GTEST_SKIP() << "no GPU to test on: " << gpu::description();
}

GpuCopy::GpuCopy(const Context& ctx, const Array& host)
    : ctx_(ctx), storage_(static_cast<size_t>(host.storage_bytes()), Device::kGpu), view_(host.view()) {
  view_.device = Device::kGpu;
  view_.data = static_cast<char*>(storage_.data()) + Array::kGuardBytes;
  gpu::copy_to_device(storage_.data(), host.storage(), storage_.bytes(), ctx.stream());
}

void GpuCopy::download(const Array& to) const {
  require(to.storage_bytes() == static_cast<int64_t>(storage_.bytes()), "download to an array of another size");
  gpu::copy_to_host(to.storage(), storage_.data(), storage_.bytes(), ctx_.stream());
}

}  // namespace scfa::test

#include "core/buffer.h"

#include <cstdlib>

#include "core/gpu.h"

namespace scfa {

namespace {
constexpr size_t kAlignment = 64;
}

Buffer::Buffer(size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (bytes == 0) return;
  if (device == Device::kGpu) {
    data_ = gpu::allocate(bytes);
    return;
  }
  data_ = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  require(data_ != nullptr, "not enough host memory for ", bytes / 1000000, " MB");
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_ == Device::kGpu)
    gpu::release(data_, bytes_);
  else
    std::free(data_);
}

PinnedBuffer::PinnedBuffer(size_t bytes) : data_(gpu::allocate_pinned(bytes)) {}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) gpu::release_pinned(data_);
}

}  // namespace scfa

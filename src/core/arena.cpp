#include "core/arena.h"

#include <cstring>

namespace scfa {

namespace {
constexpr int64_t kAlignment = 256;
}

Tensor Arena::take(const std::string& name, DType dtype, std::initializer_list<int64_t> shape) {
  double elements = 1;  // in floating point, where sizes that make no sense do not wrap around
  for (const int64_t n : shape) elements *= static_cast<double>(n);
  require(elements * 8 + static_cast<double>(used_) < 9e18, "arena: ", name, " of ", elements,
          " elements is too large");
  Tensor tensor(nullptr, dtype, device_, shape);
  const int64_t bytes = (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  if (source_) tensor.data = source_(name, tensor);
  if (real_) {
    require(used_ + bytes <= static_cast<int64_t>(buffer_.bytes()), "arena: ", name, " needs ", bytes,
            " bytes where the plan left ", static_cast<int64_t>(buffer_.bytes()) - used_);
    tensor.data = static_cast<char*>(buffer_.data()) + used_;
  }
  used_ += bytes;
  for (Item& item : items_)
    if (item.name == name) {
      item.bytes += bytes;
      return tensor;
    }
  items_.push_back({name, bytes});
  return tensor;
}

void Arena::fill(int byte) {
  require(device_ == Device::kCpu, "arena: fill works on the CPU only");
  if (buffer_.data() != nullptr) std::memset(buffer_.data(), byte, buffer_.bytes());
}

}  // namespace scfa

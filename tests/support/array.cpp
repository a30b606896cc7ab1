#include "support/array.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "kernels/fp8_codec.h"

namespace scfa::test {

namespace {

double load(const ConstTensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF32:
      return static_cast<const float*>(t.data)[i];
    case DType::kBF16:
      return from_bf16(static_cast<const uint16_t*>(t.data)[i]);
    case DType::kI32:
      return static_cast<const int32_t*>(t.data)[i];
    case DType::kU16:
      return static_cast<const uint16_t*>(t.data)[i];
    case DType::kF64:
      return static_cast<const double*>(t.data)[i];
    case DType::kE4M3:
    case DType::kE5M2:
      return cpu::decode_fp8(static_cast<const uint8_t*>(t.data)[i], t.dtype);
  }
  return NAN;
}

void store(const Tensor& t, int64_t i, double value) {
  switch (t.dtype) {
    case DType::kF32:
      static_cast<float*>(t.data)[i] = static_cast<float>(value);
      break;
    case DType::kBF16:
      static_cast<uint16_t*>(t.data)[i] = to_bf16(static_cast<float>(value));
      break;
    case DType::kI32:
      static_cast<int32_t*>(t.data)[i] = static_cast<int32_t>(value);
      break;
    case DType::kU16:
      static_cast<uint16_t*>(t.data)[i] = static_cast<uint16_t>(value);
      break;
    case DType::kF64:
      static_cast<double*>(t.data)[i] = value;
      break;
    case DType::kE4M3:
    case DType::kE5M2:
      static_cast<uint8_t*>(t.data)[i] = cpu::encode_fp8(static_cast<float>(value), t.dtype);
      break;
  }
}

bool all_poison(const unsigned char* bytes, int64_t count) {
  return std::all_of(bytes, bytes + count, [](unsigned char byte) { return byte == Array::kPoison; });
}

}  // namespace

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

std::vector<double> values(const ConstTensor& view) {
  std::vector<double> out(static_cast<size_t>(view.numel()));
  for (size_t i = 0; i < out.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i), at = 0;
    for (int d = view.ndim - 1; d >= 0; --d) {
      at += rest % view.size(d) * view.stride[static_cast<size_t>(d)];
      rest /= view.size(d);
    }
    out[i] = load(view, at);
  }
  return out;
}

Array::Array(DType dtype, std::initializer_list<int64_t> shape) : view_(nullptr, dtype, Device::kCpu, shape) {
  allocate();
}

Array::Array(std::string name, const Tensor& like) : name_(std::move(name) + " "), view_(like) {
  require(like.contiguous(), "an array like ", like.describe(), ", which is not contiguous");
  view_.device = Device::kCpu;
  allocate();
}

void Array::allocate() {
  storage_ = Buffer(static_cast<size_t>(view_.bytes() + 2 * kGuardBytes), Device::kCpu);
  std::memset(storage_.data(), kPoison, storage_.bytes());
  view_.data = static_cast<char*>(storage_.data()) + kGuardBytes;
}

Array::~Array() {
  const auto* first = static_cast<const unsigned char*>(storage_.data());
  if (first == nullptr) return;  // moved from
  EXPECT_TRUE(all_poison(first, kGuardBytes)) << "written before the start of " << name_ << view_.describe();
  EXPECT_TRUE(all_poison(first + kGuardBytes + view_.bytes(), kGuardBytes))
      << "written past " << name_ << view_.describe();
}

Array& Array::poison() {
  std::memset(view_.data, kPoison, static_cast<size_t>(view_.bytes()));
  return *this;
}

Array& Array::fill(double value) {
  for (int64_t i = 0; i < view_.numel(); ++i) store(view_, i, value);
  return *this;
}

Array& Array::fill_normal(uint64_t seed, double scale, double mean) {
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < view_.numel(); ++i) {  // Box-Muller: std::normal_distribution differs between libraries
    const double a = (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
    const double b = static_cast<double>(random() >> 11) * 0x1p-53;
    store(view_, i, mean + scale * std::sqrt(-2.0 * std::log(a)) * std::cos(6.283185307179586 * b));
  }
  return *this;
}

Array& Array::assign(const std::vector<double>& elements) {
  require(static_cast<int64_t>(elements.size()) == view_.numel(), "assign: ", elements.size(), " elements to ",
          view_.describe());
  for (size_t i = 0; i < elements.size(); ++i) store(view_, static_cast<int64_t>(i), elements[i]);
  return *this;
}

bool Array::same_bits(const Array& other) const {
  return view_.bytes() == other.view_.bytes() &&
         std::memcmp(view_.data, other.view_.data, static_cast<size_t>(view_.bytes())) == 0;
}

bool Array::poisoned() const {
  return all_poison(static_cast<const unsigned char*>(view_.data), view_.bytes());
}

Array normal(std::initializer_list<int64_t> shape, uint64_t seed, double scale, double mean) {
  Array array(shape);
  array.fill_normal(seed, scale, mean);
  return array;
}

}  // namespace scfa::test

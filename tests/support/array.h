// Tensors for tests: each in memory of its own, poisoned, between two guard bands that are checked when it goes away.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"

namespace scfa::test {

// bf16 is the upper half of an f32; conversion rounds to nearest even and keeps NaN.
uint16_t to_bf16(float value);
float from_bf16(uint16_t bits);

// The elements of a view, packed, as doubles.
std::vector<double> values(const ConstTensor& view);

class Array {
 public:
  static constexpr int64_t kGuardBytes = 256;  // keeps the alignment that device memory has
  static constexpr int kPoison = 0xFF;         // every byte: NaN as f32 or bf16, -1 as i32, kNoSegment as u16

  Array(DType dtype, std::initializer_list<int64_t> shape);
  explicit Array(std::initializer_list<int64_t> shape) : Array(DType::kF32, shape) {}
  Array(std::string name, const Tensor& like);  // of that shape and type, contiguous; messages have the name
  Array(Array&&) noexcept = default;
  ~Array();

  Array& poison();
  Array& fill(double value);
  Array& fill_normal(uint64_t seed, double scale = 1.0, double mean = 0.0);
  Array& assign(const std::vector<double>& elements);

  Tensor view() const { return view_; }
  operator Tensor() const { return view_; }       // NOLINT(google-explicit-constructor): ops take views
  operator ConstTensor() const { return view_; }  // NOLINT(google-explicit-constructor)
  template <class T>
  T* as() const {
    return view_.as<T>();
  }
  uint16_t* bits() const { return static_cast<uint16_t*>(view_.data); }  // of a type of two bytes
  std::vector<double> values() const { return test::values(view_); }
  bool same_bits(const Array& other) const;
  bool poisoned() const;  // every byte still is

  // All of the memory, guard bands included.
  void* storage() const { return storage_.data(); }
  int64_t storage_bytes() const { return static_cast<int64_t>(storage_.bytes()); }

 private:
  void allocate();

  std::string name_;
  Buffer storage_;
  Tensor view_;
};

// Part i of a (B, T, parts, H, D) tensor as (B, T, H, D), read where it lies.
inline Tensor part_of(const Tensor& whole, int64_t i) {
  return whole.select(i, 2);
}

// A (B, H, T, D) tensor as (B, T, H, D), read where it lies.
inline Tensor by_position(const Tensor& by_head) {
  return by_head.transpose(1, 2);
}

// An f32 Array of independent normal numbers.
Array normal(std::initializer_list<int64_t> shape, uint64_t seed, double scale = 1.0, double mean = 0.0);

}  // namespace scfa::test

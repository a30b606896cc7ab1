// Tensors in 8-bit floating point with one scale each.        Micikevicius et al. 2022, arXiv:2209.05433
//
// e4m3 has 3 bits of mantissa and goes up to 448, e5m2 has 2 and goes up to 57344. Values beyond are stored as the
// largest one.
#pragma once
#include <cmath>
#include <concepts>

#include "core/host_device.h"
#include "core/tensor.h"

namespace scfa {

// An element stands for element * scale.
struct ScaledTensor {
  Tensor values;  // e4m3 or e5m2, contiguous
  Tensor scale;   // (1) f32, a power of two; 16-byte aligned, as cuBLASLt wants it
  explicit operator bool() const { return static_cast<bool>(values); }
};

// What a GEMM takes: a tensor as it is, or a scaled one. Made from either.
struct GemmOperand {
  ConstTensor values, scale;
  GemmOperand() = default;
  template <std::convertible_to<ConstTensor> T>
  GemmOperand(const T& t) : values(t) {}  // NOLINT(google-explicit-constructor)
  template <std::convertible_to<ScaledTensor> T>
  GemmOperand(const T& t) {  // NOLINT(google-explicit-constructor)
    const ScaledTensor scaled = t;
    values = scaled.values, scale = scaled.scale;
  }
  bool scaled() const { return static_cast<bool>(scale); }
};

constexpr bool is_fp8(DType type) {
  return type == DType::kE4M3 || type == DType::kE5M2;
}

SCFA_HOST_DEVICE constexpr float largest_fp8(DType type) {
  return type == DType::kE4M3 ? 448.0f : 57344.0f;
}

// The least power of two, from 2^-100 to 2^100, times which the type's largest value is at least `bound`; 1 if bound is
// zero or not finite.
SCFA_HOST_DEVICE inline float fp8_scale(float bound, DType type) {
  const float ratio = bound / largest_fp8(type);
  if (!(bound > 0.0f) || !(bound < INFINITY)) return 1.0f;
  if (ratio < 0x1p-100f) return 0x1p-100f;
  if (ratio > 0x1p100f) return 0x1p100f;
  int exponent;
  const float fraction = frexpf(ratio, &exponent);  // in [0.5, 1)
  return ldexpf(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

// Throws Error naming the op and the argument unless the 8-bit copy that an op writes of an output is empty or fits it.
inline void check_fp8_copy(const char* op, const char* argument, const ScaledTensor& copy, DType type,
                           const ConstTensor& of) {
  if (!copy) return;
  require(of.size(-1) % 8 == 0, op, ": ", argument, " needs a width that is a multiple of 8, not ", of.size(-1));
  require_elements(copy.values, op, argument, type, of.numel());
  require_tensor(copy.scale, op, concat("the scale of ", argument).c_str(), DType::kF32, {1});
}

}  // namespace scfa

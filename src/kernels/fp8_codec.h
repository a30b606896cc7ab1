// f32 to and from 8-bit floating point on the host: round to nearest even, the largest value for what lies beyond.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/scaled_tensor.h"

namespace scfa::cpu {

struct Fp8Format {
  int mantissa, bias;
  explicit constexpr Fp8Format(DType type) : mantissa(type == DType::kE4M3 ? 3 : 2), bias(mantissa == 3 ? 7 : 15) {}
};

inline uint8_t encode_fp8(float x, DType type) {
  const Fp8Format format(type);
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return static_cast<uint8_t>(sign | 0x7F);
  const float size = std::fmin(std::fabs(x), largest_fp8(type));
  const int least = 1 - format.bias;  // exponent of the smallest normal number
  const int exponent = size < std::ldexp(1.0f, least) ? least : std::ilogb(size);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, format.mantissa - exponent)));
  // From the smallest normal number on, steps has the hidden bit, which adds one to the exponent field.
  return static_cast<uint8_t>(sign | (((exponent - least) << format.mantissa) + steps));
}

inline float decode_fp8(uint8_t code, DType type) {
  const Fp8Format format(type);
  const int field = (code & 0x7F) >> format.mantissa, fraction = code & ((1 << format.mantissa) - 1);
  const bool nan = type == DType::kE4M3 ? (code & 0x7F) == 0x7F : field == 31 && fraction != 0;
  if (nan) return NAN;
  if (type == DType::kE5M2 && field == 31) return code & 0x80 ? -INFINITY : INFINITY;
  const float size = field == 0 ? std::ldexp(static_cast<float>(fraction), 1 - format.bias - format.mantissa)
                                : std::ldexp(static_cast<float>(fraction + (1 << format.mantissa)),
                                             field - format.bias - format.mantissa);
  return code & 0x80 ? -size : size;
}

// y.values = x / y.scale; x is f32.
inline void encode_fp8(const ScaledTensor& y, const ConstTensor& x) {
  const float inverse = 1.0f / *y.scale.as<float>();
  const auto* from = x.as<float>();
  auto* to = static_cast<uint8_t*>(y.values.data);
  const int64_t n = x.numel();
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) to[i] = encode_fp8(from[i] * inverse, y.values.dtype);
}

}  // namespace scfa::cpu

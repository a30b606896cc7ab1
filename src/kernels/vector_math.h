// exp, exp2 and erf for f32 that compilers turn into vector code (the C library's do not without -ffast-math). Each is
// accurate to 1.5 units in the last place over its range (to 1 with FMA); tests compare them with the C library.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace scfa::cpu {

// 2^x. Below -126 the result is 2^-126, not zero; from 127.5 on it is infinite, half a power before it has to be; NaN
// stays NaN.
inline float vexp2(float x) {
  const float clamped = x < -126.0f ? -126.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  const float shifted = clamped + kRound;
  const float f = clamped - (shifted - kRound);
  float p = 1.5252734e-5f;
  p = p * f + 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
  const float result = p * scale;
  return clamped >= 127.5f ? INFINITY : result;
}

// e^x, with the argument reduced in two parts so that no accuracy is lost for large |x|. Below -87 the result is e^-87,
// not zero; above 88.3 it is infinite, a little before it has to be (88.7); NaN stays NaN.
inline float vexp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  constexpr float kRound = 12582912.0f;
  const float shifted = clamped * 1.442695041f + kRound;
  const float n = shifted - kRound;
  float r = clamped - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  float p = 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
  return clamped > 88.3f ? INFINITY : p * scale;
}

// tanh with an absolute error below 2e-7, which is what GELU needs of it.
inline float vtanh(float x) {
  const float bounded = x > 15.0f ? 15.0f : (x < -15.0f ? -15.0f : x);
  return 1.0f - 2.0f / (vexp(2.0f * bounded) + 1.0f);
}

// erf, by a polynomial near zero and 1 - e^p(x) beyond.
inline float verf(float x) {
  const float t = std::fabs(x), s = x * x;
  float far = -1.72853470e-5f * t + 3.83197126e-4f;
  const float u = -3.88396438e-3f * t + 2.42546219e-2f;
  far = far * s + u;
  far = far * t - 1.06777877e-1f;
  far = far * t - 6.34846687e-1f;
  far = far * t - 1.28717512e-1f;
  far = far * t - t;
  far = std::copysign(1.0f - vexp(far), x);
  float near = -5.96761703e-4f;
  near = near * s + 4.99119423e-3f;
  near = near * s - 2.67681349e-2f;
  near = near * s + 1.12819925e-1f;
  near = near * s - 3.76125336e-1f;
  near = near * s + 1.28379166e-1f;
  near = near * x + x;
  return t > 0.927734375f ? far : near;
}

}  // namespace scfa::cpu

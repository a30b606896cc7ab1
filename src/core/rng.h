// Counter-based random numbers, the same on CPU and GPU: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers:
// as easy as 1, 2, 3"). A number is a pure function of (seed, purpose, step, layer, head, sample, index), so any step
// can be recomputed alone and no state needs saving.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace scfa {

struct Random4 {
  uint32_t v[4];
};

SCFA_HOST_DEVICE inline Random4 philox4x32(uint64_t key, Random4 counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter.v[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter.v[2];
    counter = {{static_cast<uint32_t>(p1 >> 32) ^ counter.v[1] ^ k0, static_cast<uint32_t>(p1),
                static_cast<uint32_t>(p0 >> 32) ^ counter.v[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

// What a number is for. Values are part of the checkpoint contract: never renumber.
enum class Purpose : uint32_t { kInit = 1, kProjection = 2, kDropQuery = 3, kDropKey = 4, kData = 5, kSample = 6 };

// The step at which evaluation and generation draw: one fixed set of projections and drops, never used in training.
inline constexpr uint32_t kEvaluationStep = 0xFFFFFFFFu;

// The step that numbers are drawn for: a value or, for work in a CUDA graph that is launched for one step after
// another, where it lies in the device's memory.
struct RandomStep {
  uint32_t value = 0;
  const uint32_t* memory = nullptr;

  RandomStep() = default;
  SCFA_HOST_DEVICE RandomStep(uint32_t step) : value(step) {}  // NOLINT(google-explicit-constructor)
  RandomStep(uint32_t step, const uint32_t* on_device) : value(step), memory(on_device) {}
  SCFA_HOST_DEVICE uint32_t get() const { return memory != nullptr ? *memory : value; }
};

// Four numbers. Limits: layer, head < 65536; sample < 2^24.
SCFA_HOST_DEVICE inline Random4 random4(uint64_t seed, Purpose purpose, uint32_t step, uint32_t layer, uint32_t head,
                                        uint32_t sample, uint32_t index) {
  return philox4x32(seed, {{index, layer << 16 | (head & 0xFFFFu), step,
                            static_cast<uint32_t>(purpose) << 24 | (sample & 0xFFFFFFu)}});
}

// Spreads a word and its place over 64 bits (the last steps of splitmix64).
SCFA_HOST_DEVICE inline uint64_t mix_word(uint32_t word, uint64_t place) {
  uint64_t x = word + place * uint64_t{0x9E3779B97F4A7C15u};
  x = (x ^ (x >> 30)) * uint64_t{0xBF58476D1CE4E5B9u};
  x = (x ^ (x >> 27)) * uint64_t{0x94D049BB133111EBu};
  return x ^ (x >> 31);
}

// 24 random bits as a float in [0, 1).
SCFA_HOST_DEVICE inline float uniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

// Box-Muller: two bit patterns give two independent standard normals.
SCFA_HOST_DEVICE inline void normal2(uint32_t a, uint32_t b, float& x, float& y) {
  const float radius = sqrtf(-2.0f * logf((static_cast<float>(a >> 8) + 0.5f) * (1.0f / 16777216.0f)));
  const float angle = 6.283185307179586f * uniform(b);
  x = radius * cosf(angle);
  y = radius * sinf(angle);
}

}  // namespace scfa

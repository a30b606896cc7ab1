// How long a training step will take, by what it computes and what the device can do.
#pragma once
#include <optional>

#include "core/context.h"
#include "model/activations.h"
#include "train/config.h"

namespace scfa {

// What a device reaches in a training step.
struct DeviceRates {
  double gemms = 0, attention = 0;  // FLOP/s
  double bandwidth = 0;             // bytes/s
  double element_bytes = 0;         // of activations
};

// Of a Hopper GPU in our list, by its data sheet: GEMMs take 77 % of peak FLOP/s, attention 40 %, and passes over
// memory 88 % of its bandwidth. Nothing for another one.
std::optional<DeviceRates> rates_of_gpu(const std::string& gpu);
// Of this machine's CPU, by a GEMM that takes a twentieth of a second.
DeviceRates measured_rates_of_cpu();
std::optional<DeviceRates> rates_of(const Context& ctx);

// Seconds of a step of each of `ranks`, without what they exchange, in the last stage of a schedule of patterns. Within
// 11 % of what ./bench step measures on an H200 for 124 M parameters at 1k to 32k tokens, with micro-batches of 65,536
// tokens (small ones take longer), and within 15 % on two cores for 0.8 M to 124 M parameters.
double expected_step_seconds(const Config& config, int ranks, Recompute recompute, const DeviceRates& rates);

}  // namespace scfa

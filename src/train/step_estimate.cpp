#include "train/step_estimate.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/linear/linear.h"
#include "model/params.h"
#include "train/machine.h"
#include "train/preflight.h"

namespace scfa {

namespace {

// Bytes per second.
double data_sheet_bandwidth(const std::string& gpu) {
  static constexpr struct {
    const char* name;
    double terabytes;
  } kGpus[] = {{"H100 PCIe", 2.0}, {"H100 NVL", 3.9}, {"H100", 3.35}, {"GH200", 4.0}, {"H200", 4.8}, {"H800", 3.35}};
  for (const auto& entry : kGpus)
    if (gpu.find(entry.name) != std::string::npos) return entry.terabytes * 1e12;
  return 0;
}

}  // namespace

std::optional<DeviceRates> rates_of_gpu(const std::string& gpu) {
  const double peak = data_sheet_flops(gpu), bandwidth = data_sheet_bandwidth(gpu);
  if (peak == 0 || bandwidth == 0) return {};
  return DeviceRates{.gemms = 0.77 * peak, .attention = 0.40 * peak, .bandwidth = 0.88 * bandwidth, .element_bytes = 2};
}

DeviceRates measured_rates_of_cpu() {
  constexpr int64_t kSize = 512;
  using Seconds = std::chrono::duration<double>;
  Context ctx;
  std::vector<float> memory(3 * kSize * kSize, 0.5f);
  const auto matrix = [&](int64_t i) {
    return Tensor(memory.data() + i * kSize * kSize, DType::kF32, Device::kCpu, {kSize, kSize});
  };
  double least = 0;
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 3 || Seconds(std::chrono::steady_clock::now() - began).count() < 0.05; ++i) {
    const auto from = std::chrono::steady_clock::now();
    linear_forward(ctx, matrix(0), matrix(1), matrix(2), {});
    const double seconds = Seconds(std::chrono::steady_clock::now() - from).count();
    least = i == 0 ? seconds : std::min(least, seconds);
  }
  const double flops = 2.0 * kSize * kSize * kSize / std::max(least, 1e-9);
  return {.gemms = flops, .attention = 0.5 * flops, .bandwidth = 20e9, .element_bytes = 4};
}

std::optional<DeviceRates> rates_of(const Context& ctx) {
  if (ctx.on_gpu()) return rates_of_gpu(device_name(ctx.device()));
  return measured_rates_of_cpu();
}

double expected_step_seconds(const Config& config, int ranks, Recompute recompute, const DeviceRates& rates) {
  const GptConfig c = config.model.at_stage(config.model.stages() - 1);
  GptConfig without_pairs = c;  // what remains is GEMMs
  without_pairs.attention = {HeadPatterns(1)};
  without_pairs.sequence_length = 1;
  const double C = static_cast<double>(c.n_embd), L = static_cast<double>(c.n_layer);
  const double all = model_flops_per_token(c), first_pair = 12 * C * L;
  double gemms = model_flops_per_token(without_pairs) - first_pair;
  const double attention = all - gemms;
  // Elements of width C that a block reads or writes per token: layer norms 8 and 8, GELU 8 and 12, attention about 40.
  double elements = (8 + 8 + 8 + 12 + 40) * C * L;
  if (recompute == Recompute::kGelu) elements += 8 * C * L;
  if (recompute == Recompute::kNorms) elements += (8 + 4) * C * L;
  if (recompute == Recompute::kBlock) {
    gemms += 2 * L * C * (static_cast<double>(c.qkv_width()) + C + 4 * C);
    elements += (8 + 8) * C * L;
  }
  elements += 2 * static_cast<double>(c.padded_vocab());
  if (precision_of(config.train) == Precision::kFp8 &&
      rates.element_bytes == 2) {  // a GPU: forward but for attention's projection, and the MLP's input gradients
    const double in_fp8 =
        2 * C * (L * (static_cast<double>(c.qkv_width()) + 8 * C + 8 * C) + static_cast<double>(c.padded_vocab()));
    constexpr double kGain = 0.4;  // of their time; elements are written once more, with half the bytes
    gemms -= kGain * in_fp8;
    elements += 0.5 * (2 + 4 + 4 + 3) * C * L;
  }
  const double tokens = static_cast<double>(config.tokens_per_step()) / ranks;
  const double parameters = static_cast<double>(ParameterTable(c).count);
  constexpr double kOptimizerBytes = 34;  // per parameter: gradient, moments, weights, and zero for the next gradient
  return tokens *
             (gemms / rates.gemms + attention / rates.attention + rates.element_bytes * elements / rates.bandwidth) +
         kOptimizerBytes * parameters / rates.bandwidth;
}

}  // namespace scfa

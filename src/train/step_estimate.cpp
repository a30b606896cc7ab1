#include "train/step_estimate.h"

#include "model/params.h"
#include "train/machine.h"

namespace scfa {

namespace {

double data_sheet_bandwidth(const std::string& gpu) {
  static constexpr struct {
    const char* name;
    double terabytes;  // per second
  } kGpus[] = {{"H100 PCIe", 2.0}, {"H100 NVL", 3.9}, {"H100", 3.35}, {"H200", 4.8}, {"H800", 3.35}};
  for (const auto& entry : kGpus)
    if (gpu.find(entry.name) != std::string::npos) return entry.terabytes * 1e12;
  return 0;
}

}  // namespace

double expected_step_seconds(const Config& config, int ranks, Recompute recompute, const std::string& gpu) {
  const double peak = data_sheet_flops(gpu), bandwidth = 0.88 * data_sheet_bandwidth(gpu);
  if (peak == 0 || bandwidth == 0) return 0;
  const GptConfig c = config.model.at_stage(config.model.stages() - 1);
  GptConfig without_pairs = c;  // what remains is products
  without_pairs.attention = {HeadPatterns(1)};
  without_pairs.sequence_length = 1;
  const double C = static_cast<double>(c.n_embd), L = static_cast<double>(c.n_layer);
  const double all = model_flops_per_token(c), first_pair = 12 * C * L;
  double products = model_flops_per_token(without_pairs) - first_pair;
  const double attention = all - products;
  // Elements of width C that a block reads or writes per token: layer norms 8 and 8, GELU 8 and 12, attention about 40.
  double elements = (8 + 8 + 8 + 12 + 40) * C * L;
  if (recompute == Recompute::kGelu) elements += 8 * C * L;
  if (recompute == Recompute::kBlock) {
    products += 2 * L * C * (static_cast<double>(c.qkv_width()) + C + 4 * C);
    elements += (8 + 8) * C * L;
  }
  elements += 2 * static_cast<double>(c.padded_vocab());
  const double tokens = static_cast<double>(config.tokens_per_step()) / ranks;
  const double parameters = static_cast<double>(ParameterTable(c).count);
  constexpr double kOptimizerBytes = 34;  // per parameter: gradient, moments, weights, and zero for the next gradient
  return tokens * (products / (0.77 * peak) + attention / (0.40 * peak) + 2 * elements / bandwidth) +
         kOptimizerBytes * parameters / bandwidth;
}

}  // namespace scfa

#include "train/step_estimate.h"

#include <gtest/gtest.h>

#include "train/config_io.h"

namespace scfa {
namespace {

// What ./bench step measured (results/h200/step.csv), with micro-batches of 65,536 tokens.
TEST(StepEstimate, IsNearWhatWasMeasuredOnAnH200) {
  const DeviceRates h200 = *rates_of_gpu("NVIDIA H200");
  EXPECT_FALSE(rates_of_gpu("NVIDIA A100-SXM4-80GB"));
  struct Measured {
    const char* config;
    int64_t length;
    double seconds;
    const char* precision = "auto";
  };
  for (const auto& [name, length, seconds, precision] :
       {Measured{"gpt2_124m", 1024, 0.1036}, Measured{"gpt2_124m", 8192, 0.1659}, Measured{"near_far_8k", 8192, 0.0977},
        Measured{"near_far_32k", 32768, 0.1054}, Measured{"gpt2_124m", 8192, 0.1525, "fp8"},
        Measured{"near_far_8k", 8192, 0.0889, "fp8"}}) {
    Config config = read_config(concat(SCFA_SOURCE_DIR, "/configs/", name, ".json"));
    config.model.sequence_length = length;
    config.model.vocab_size = 50257;
    config.train.precision = precision;
    config.train.batch_size = config.train.micro_batch_size = 65536 / length;
    const double expected = expected_step_seconds(config, 1, Recompute::kNone, h200);
    EXPECT_NEAR(expected, seconds, 0.11 * seconds) << name;
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kGelu, h200), expected);
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kNorms, h200),
              expected_step_seconds(config, 1, Recompute::kGelu, h200));
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kBlock, h200), 1.08 * expected);
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kNone, *rates_of_gpu("NVIDIA H100 80GB HBM3")), expected);
    config.train.batch_size *= 4;
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kNone, h200), 3.9 * expected);
    EXPECT_LT(expected_step_seconds(config, 4, Recompute::kNone, h200), 1.01 * expected);
  }
}

TEST(StepEstimate, TheCpuIsMeasured) {
  const DeviceRates rates = measured_rates_of_cpu();
  EXPECT_GT(rates.gemms, 1e8);
  EXPECT_LT(rates.gemms, 1e14);
}

}  // namespace
}  // namespace scfa

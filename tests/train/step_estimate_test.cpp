#include "train/step_estimate.h"

#include <gtest/gtest.h>

#include "train/config_io.h"

namespace scfa {
namespace {

// What ./bench step measured (results/h200/step.csv), with micro-batches of 65,536 tokens.
TEST(StepEstimate, IsNearWhatWasMeasuredOnAnH200) {
  struct Measured {
    const char* config;
    int64_t length;
    double seconds;
  };
  for (const auto& [name, length, seconds] :
       {Measured{"gpt2_124m", 1024, 0.1036}, Measured{"gpt2_124m", 8192, 0.1659}, Measured{"near_far_8k", 8192, 0.0977},
        Measured{"near_far_32k", 32768, 0.1054}}) {
    Config config = read_config(concat(SCFA_SOURCE_DIR, "/configs/", name, ".json"));
    config.model.sequence_length = length;
    config.model.vocab_size = 50257;
    config.train.batch_size = config.train.micro_batch_size = 65536 / length;
    const double expected = expected_step_seconds(config, 1, Recompute::kNone, "NVIDIA H200");
    EXPECT_NEAR(expected, seconds, 0.11 * seconds) << name;
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kGelu, "NVIDIA H200"), expected);
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kBlock, "NVIDIA H200"), 1.08 * expected);
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kNone, "NVIDIA H100 80GB HBM3"), expected);
    EXPECT_EQ(expected_step_seconds(config, 1, Recompute::kNone, "NVIDIA A100-SXM4-80GB"), 0);
    config.train.batch_size *= 4;
    EXPECT_GT(expected_step_seconds(config, 1, Recompute::kNone, "NVIDIA H200"), 3.9 * expected);
    EXPECT_LT(expected_step_seconds(config, 4, Recompute::kNone, "NVIDIA H200"), 1.01 * expected);
  }
}

}  // namespace
}  // namespace scfa

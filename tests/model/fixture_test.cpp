// The whole model against PyTorch in float64 (tests/fixtures/model/make_fixtures.py): loss, gradients, and parameters
// after five optimizer steps with clipping active.
#include <gtest/gtest.h>

#include <cmath>

#include "model/gpt.h"
#include "support/safetensors_reader.h"
#include "train/optimizer.h"

namespace scfa {
namespace {

constexpr int64_t kLayers = 2, kHeads = 2, kWidth = 16, kLength = 24, kVocab = 61, kBatch = 2, kSteps = 5;

GptConfig config_of(const std::map<std::string, std::string>& s) {
  GptConfig c;
  c.n_layer = kLayers;
  c.n_head = kHeads;
  c.n_embd = kWidth;
  c.sequence_length = kLength;
  c.vocab_size = kVocab;
  c.vocab_padding = 64;
  c.bias = s.at("bias") == "True";
  c.gelu = s.at("gelu");
  c.positions = s.at("rotary") == "True" ? "rotary" : "learned";
  c.tied_embedding = s.at("tied") == "True";
  c.shared_qk = s.at("shared_qk") == "True";
  c.attention[0].pattern = s.at("pattern");
  c.attention[0].buckets = std::stoll(s.at("buckets"));
  c.attention[0].attend_self = s.at("strict") != "True";
  return c;
}

template <class T>
std::vector<T> cast(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// |got - want| / max(|want|, floor): some gradients (of key biases) are zero but for rounding, and need the floor.
double relative_error(const float* got, const std::vector<float>& want, double floor) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), floor);
}

class Fixture : public testing::TestWithParam<const char*> {};

TEST_P(Fixture, LossGradientsAndFiveStepsEqualPyTorch) {
  const test::SafetensorsFile file(concat(SCFA_SOURCE_DIR "/tests/fixtures/model/", GetParam(), ".safetensors"));
  Context ctx;
  Gpt model(ctx, config_of(file.metadata), kBatch, 1, Gpt::Mode::kTraining);
  float* values = model.values().as<float>();
  std::fill_n(values, model.table().length, 0.0f);
  for (const ParameterEntry& entry : model.table().entries) {
    ASSERT_EQ(file.tensors.at("param." + entry.name).shape, entry.shape) << entry.name;
    std::copy_n(file.at("param." + entry.name).data(), entry.size, values + entry.offset);
  }
  OptimizerConfig settings;
  settings.eps = 1e-5;
  settings.clip = std::stod(file.metadata.at("clip"));
  Optimizer optimizer(ctx, model.table(), settings);

  auto ids = cast<int32_t>(file.at("ids")), targets = cast<int32_t>(file.at("targets"));
  auto q_segments = cast<uint16_t>(file.at("q_segments")), k_segments = cast<uint16_t>(file.at("k_segments"));
  const uint32_t samples[kBatch] = {0, 1};
  for (int64_t step = 0; step < kSteps; ++step) {
    Batch batch;
    const int64_t at = step * kBatch * kLength;
    batch.ids = Tensor(ids.data() + at, DType::kI32, Device::kCpu, {kBatch, kLength});
    batch.targets = Tensor(targets.data() + at, DType::kI32, Device::kCpu, {kBatch, kLength});
    batch.samples = samples;
    batch.step = static_cast<uint32_t>(step);
    batch.gradient_scale = 1.0f / (kBatch * kLength);
    batch.q_segments = Tensor(q_segments.data(), DType::kU16, Device::kCpu, {kLayers, kBatch, kHeads, kLength});
    batch.k_segments = Tensor(k_segments.data(), DType::kU16, Device::kCpu, {kLayers, kBatch, kHeads, kLength});
    model.zero_gradients();
    const LossSums sums = model.forward(batch, true);
    model.backward(batch);
    const auto norm = static_cast<double>(optimizer.norm(model));
    EXPECT_NEAR(sums.loss / static_cast<double>(sums.tokens), file.at("losses")[static_cast<size_t>(step)], 3e-6)
        << step;
    EXPECT_NEAR(norm, file.at("norms")[static_cast<size_t>(step)], 2e-5) << step;
    EXPECT_GT(norm, settings.clip);
    for (const ParameterEntry& entry : model.table().entries) {
      const float* gradient = model.gradients().as<float>() + entry.offset;
      if (step == 0) {
        EXPECT_LT(relative_error(gradient, file.at("grad." + entry.name), 1e-3 * norm), 2e-5) << entry.name;
      }
    }
    optimizer.update(model, 3e-3, step + 1);
  }
  for (const ParameterEntry& entry : model.table().entries)
    EXPECT_LT(relative_error(values + entry.offset, file.at("after." + entry.name), 1e-12), 2e-5) << entry.name;
}

INSTANTIATE_TEST_SUITE_P(Model, Fixture,
                         testing::Values("separate_dense", "separate_hash", "separate_drop",
                                         "separate_hash_rotary_untied", "shared_dense", "shared_hash", "shared_drop",
                                         "shared_hash_rotary_untied"),
                         [](const auto& row) { return std::string(row.param); });

}  // namespace
}  // namespace scfa

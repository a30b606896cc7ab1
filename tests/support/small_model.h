// Small models and batches for tests of the model and of training.
#pragma once
#include <memory>
#include <random>
#include <vector>

#include "model/gpt.h"

namespace scfa::test {

inline GptConfig small_config(const std::string& pattern = "dense") {
  GptConfig c;
  c.n_layer = 2;
  c.n_head = 2;
  c.n_embd = 16;
  c.sequence_length = 33;
  c.vocab_size = 50;
  c.vocab_padding = 16;
  c.attention[0][0].pattern = pattern;
  c.attention[0][0].buckets = 4;
  c.attention[0][0].block = 8;
  return c;
}

struct OwnedStore {
  ParameterStore owned;
};

// A model with a store of its own.
class OwnedGpt : OwnedStore, public Gpt {
 public:
  OwnedGpt(Context& ctx, const GptConfig& c, int64_t batch, uint64_t seed, Mode mode)
      : OwnedStore{{ctx, c, {.training = mode == Mode::kTraining}}}, Gpt(owned, c, batch, seed, mode) {}

  Tensor master_params() const { return owned.master_params(); }
  Tensor gradients() const { return owned.gradients(); }
  void init(uint64_t seed) { owned.init(seed); }
};

// A batch and what it points to.
struct OwnedBatch {
  std::vector<int32_t> ids, targets;
  std::vector<uint32_t> samples;
  Batch batch;

  OwnedBatch(const GptConfig& c, int64_t B, unsigned seed, uint32_t step = 0)
      : ids(static_cast<size_t>(B * c.sequence_length)), targets(ids.size()) {
    std::mt19937 random(seed);
    for (auto* values : {&ids, &targets})
      for (int32_t& id : *values) id = static_cast<int32_t>(random() % static_cast<unsigned>(c.vocab_size));
    if (c.documents)  // documents of several lengths, one of them of a single token
      for (int64_t b = 0; b < B; ++b)
        for (const int64_t t : {int64_t{5} + b, int64_t{6} + b, int64_t{20}})
          ids[static_cast<size_t>(b * c.sequence_length + t)] = static_cast<int32_t>(c.end_of_text);
    for (int64_t b = 0; b < B; ++b) samples.push_back(static_cast<uint32_t>(b));
    batch.ids = Tensor(ids.data(), DType::kI32, Device::kCpu, {B, c.sequence_length});
    batch.targets = Tensor(targets.data(), DType::kI32, Device::kCpu, {B, c.sequence_length});
    batch.samples = Tensor(samples.data(), DType::kI32, Device::kCpu, {B});
    batch.step = step;
    batch.gradient_scale = 1.0f / static_cast<float>(B * c.sequence_length);
  }
  OwnedBatch(const OwnedBatch&) = delete;
  OwnedBatch& operator=(const OwnedBatch&) = delete;
};

// The losses of one batch alone.
inline LossSums run(Gpt& model, const Batch& batch, bool gradients) {
  model.take_losses();
  model.forward(batch, gradients);
  return model.take_losses();
}

// Larger values than a real initialisation gives, so that every path carries signal.
inline void fill_large(Gpt& model, float scale = 12.0f) {
  Context& ctx = model.context();
  std::vector<float> host(static_cast<size_t>(model.table().length));
  const Tensor flat(host.data(), DType::kF32, Device::kCpu, {model.table().length});
  ctx.copy(flat, model.store().master_params());
  for (const ParameterEntry& entry : model.table().entries)
    if (entry.init == Init::kNormal || entry.init == Init::kResidualNormal)
      for (int64_t i = 0; i < entry.size; ++i) host[static_cast<size_t>(entry.offset + i)] *= scale;
  ctx.copy(model.store().master_params(), flat);
  model.store().master_params_changed();
  ctx.synchronize();
}

// Biases of buckets, where there are some, that change what tokens see.
inline void fill_bucket_biases(Gpt& model) {
  const Tensor biases = model.store().bucket_biases();
  if (!biases) return;
  std::mt19937 random(5);
  std::vector<float> host(static_cast<size_t>(biases.numel()));
  for (float& value : host) value = std::normal_distribution<float>()(random);
  model.context().copy(biases, ConstTensor(host.data(), DType::kF32, Device::kCpu, {biases.numel()}));
  model.context().synchronize();
}

}  // namespace scfa::test

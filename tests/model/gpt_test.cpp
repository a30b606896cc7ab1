#include "model/gpt.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "core/rng.h"
#include "kernels/attention/attention.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/small_model.h"
#include "train/preflight.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::OwnedGpt;
using test::small_config;

struct Variant {
  const char* name;
  const char* pattern;
  bool shared, rotary, tied, bias;
  int64_t heads = 2, kv_heads = 0;
  bool documents = false;
};

class Variants : public testing::TestWithParam<Variant> {
 protected:
  static GptConfig config() {
    GptConfig c = small_config(GetParam().pattern);
    c.shared_qk = GetParam().shared;
    c.n_head = GetParam().heads;
    c.n_kv_head = GetParam().kv_heads;
    c.documents = GetParam().documents;
    if (c.documents) c.end_of_text = 3;
    c.positions = GetParam().rotary ? "rotary" : "learned";
    c.tied_embedding = GetParam().tied;
    c.bias = GetParam().bias;
    return c;
  }
};

// Along random directions of all parameters at once, the loss changes as the gradient says. Segments are taken from the
// first forward pass and held, since buckets jump.
TEST_P(Variants, GradientEqualsFiniteDifferences) {
  Context ctx;
  const GptConfig c = config();
  const int64_t B = 2;
  OwnedGpt model(ctx, c, B, 7, Gpt::Mode::kTraining);
  model.init(3);
  test::fill_large(model);
  OwnedBatch owned(c, B, 11, 5);
  model.forward(owned.batch, false);
  std::vector<uint16_t> q, k;
  for (const BlockActivations& a : model.activations().blocks) {
    const int64_t n = a.segments.relations[0].q_segment.numel();
    q.insert(q.end(), a.segments.relations[0].q_segment.as<uint16_t>(),
             a.segments.relations[0].q_segment.as<uint16_t>() + n);
    k.insert(k.end(), a.segments.relations[0].k_segment.as<uint16_t>(),
             a.segments.relations[0].k_segment.as<uint16_t>() + n);
  }
  owned.batch.q_segments = Tensor(q.data(), DType::kU16, Device::kCpu, {c.n_layer, B, c.n_head, c.sequence_length});
  owned.batch.k_segments = Tensor(k.data(), DType::kU16, Device::kCpu, {c.n_layer, B, c.n_head, c.sequence_length});
  model.forward(owned.batch, true);
  model.backward(owned.batch);
  float *values = model.master_params().as<float>(), *gradients = model.gradients().as<float>();
  const std::vector<float> start(values, values + model.table().length);
  const auto loss = [&](const ParameterEntry& entry, const std::vector<float>& direction, double h) {
    std::copy(start.begin(), start.end(), values);
    for (int64_t i = 0; i < entry.size; ++i)
      values[entry.offset + i] += static_cast<float>(h) * direction[static_cast<size_t>(i)];
    const LossSums sums = test::run(model, owned.batch, false);
    return sums.loss / static_cast<double>(sums.tokens);
  };
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  double total = 0;
  for (int64_t i = 0; i < model.table().length; ++i)
    total += static_cast<double>(gradients[i]) * static_cast<double>(gradients[i]);
  for (const ParameterEntry& entry : model.table().entries) {
    // Towards the gradient of this tensor, so that the difference stands out of the rounding of the loss.
    std::vector<float> direction(gradients + entry.offset, gradients + entry.offset + entry.size);
    double square = 0;
    for (const float d : direction) square += static_cast<double>(d) * static_cast<double>(d);
    ASSERT_GT(std::sqrt(square), 1e-4 * std::sqrt(total)) << entry.name;
    for (float& d : direction)
      d = d / static_cast<float>(std::sqrt(square)) + 0.1f * normal(random) / std::sqrt(static_cast<float>(entry.size));
    double want = 0;
    for (int64_t i = 0; i < entry.size; ++i)
      want += static_cast<double>(gradients[entry.offset + i]) * static_cast<double>(direction[static_cast<size_t>(i)]);
    const double h = 4e-3;
    const double got = (8 * (loss(entry, direction, h) - loss(entry, direction, -h)) -
                        (loss(entry, direction, 2 * h) - loss(entry, direction, -2 * h))) /
                       (12 * h);
    EXPECT_NEAR(got, want, 4e-3 * std::abs(want) + 4e-4) << entry.name;
  }
}

TEST_P(Variants, GradientsAddUpOverMicroBatches) {
  Context ctx;
  const GptConfig c = config();
  OwnedBatch whole(c, 2, 11);
  OwnedGpt once(ctx, c, 2, 7, Gpt::Mode::kTraining), twice(ctx, c, 1, 7, Gpt::Mode::kTraining);
  once.init(3);
  twice.init(3);
  double loss = test::run(once, whole.batch, true).loss, sum = 0;
  once.backward(whole.batch);
  for (int64_t b = 0; b < 2; ++b) {
    Batch part = whole.batch;
    part.ids = whole.batch.ids.slice(b, 1);
    part.targets = whole.batch.targets.slice(b, 1);
    part.samples = whole.batch.samples.slice(b, 1);
    sum += test::run(twice, part, true).loss;
    twice.backward(part);
  }
  EXPECT_NEAR(loss, sum, 1e-3);
  for (int64_t i = 0; i < once.table().length; ++i)
    ASSERT_NEAR(once.gradients().as<float>()[i], twice.gradients().as<float>()[i], 2e-6) << i;
}

INSTANTIATE_TEST_SUITE_P(Gpt, Variants,
                         testing::Values(Variant{"dense_gpt2", "dense", false, false, true, true},
                                         Variant{"dense_shared", "dense", true, false, true, false},
                                         Variant{"hash_shared", "hash", true, false, true, false},
                                         Variant{"hash_separate", "hash", false, false, true, true},
                                         Variant{"hash_rotary", "hash", true, true, false, false},
                                         Variant{"drop_shared", "drop", true, false, true, false},
                                         Variant{"drop_separate_rotary", "drop", false, true, true, true},
                                         Variant{"dense_grouped", "dense", false, false, true, true, 4, 2},
                                         Variant{"hash_grouped_rotary", "hash", false, true, true, false, 4, 1},
                                         Variant{"dense_documents", "dense", false, false, true, true, 2, 0, true},
                                         Variant{"hash_shared_documents", "hash", true, false, true, true, 2, 0, true},
                                         Variant{"hash_grouped_documents", "hash", false, true, true, false, 4, 2,
                                                 true}),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(Gpt, InitialLossIsThatOfAUniformGuess) {
  Context ctx;
  const GptConfig c = small_config();
  OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
  model.init(1);
  const OwnedBatch owned(c, 2, 1);
  const LossSums sums = test::run(model, owned.batch, false);
  EXPECT_EQ(sums.tokens, 2 * c.sequence_length);
  EXPECT_NEAR(sums.loss / static_cast<double>(sums.tokens), std::log(50.0), 0.05);  // 50 entries, not the padded 64
}

TEST(Gpt, RowsLimitsWhatCounts) {
  Context ctx;
  const GptConfig c = small_config("hash");
  OwnedGpt two(ctx, c, 2, 1, Gpt::Mode::kTraining), one(ctx, c, 1, 1, Gpt::Mode::kTraining);
  two.init(1);
  one.init(1);
  OwnedBatch owned(c, 2, 1);
  owned.batch.rows = 1;
  const LossSums first = test::run(two, owned.batch, false);
  Batch single = owned.batch;
  single.ids = owned.batch.ids.slice(0, 1);
  single.targets = owned.batch.targets.slice(0, 1);
  single.samples = owned.batch.samples.slice(0, 1);
  const LossSums alone = test::run(one, single, false);
  EXPECT_EQ(first.tokens, c.sequence_length);
  EXPECT_NEAR(first.loss, alone.loss, 1e-4);
}

// A model for shorter sequences than its config's, of the same parameters.
TEST(Gpt, ShorterSequencesAreTheBeginningOfLongOnes) {
  Context ctx;
  for (const char* positions : {"learned", "rotary"}) {
    GptConfig c = small_config("hash");
    c.positions = positions;
    ParameterStore store(ctx, c, {});
    store.init(1);
    const int64_t n = 12;
    Gpt whole(store, c, 1, 1, Gpt::Mode::kEvaluation), part(store, c, 1, 1, Gpt::Mode::kEvaluation, n);
    test::fill_large(whole);
    const OwnedBatch owned(c, 1, 1);
    Batch beginning = owned.batch;
    beginning.ids = owned.batch.ids.narrow(1, 0, n);
    beginning.targets = owned.batch.targets.narrow(1, 0, n);
    test::run(whole, owned.batch, false);
    EXPECT_EQ(test::run(part, beginning, false).tokens, n);
    EXPECT_TRUE(test::close(part.activations().losses, test::values(whole.activations().losses.slice(0, n)), 1e-5));
    EXPECT_THROW(part.forward(owned.batch, false), Error);
    int64_t planned = 0, allocated = 0;
    for (const Arena::Item& item : Gpt::memory_plan(ctx, c, 1, Gpt::Mode::kEvaluation, n)) planned += item.bytes;
    for (const Arena::Item& item : part.memory()) allocated += item.bytes;
    EXPECT_EQ(planned, allocated);
    test::expect_error([&] { Gpt(store, c, 1, 1, Gpt::Mode::kEvaluation, c.sequence_length + 1); },
                       {"model.sequence_length = 33", "not 34"});
  }
}

TEST(Gpt, OneBucketAndNothingDroppedEqualDense) {
  Context ctx;
  GptConfig dense = small_config("dense"), hash = small_config("hash"), drop = small_config("drop");
  hash.attention[0][0].buckets = 1;
  hash.attention[0][0].attend_self = true;
  drop.attention[0][0].drop_rate = 0;
  std::vector<float> reference;
  for (const GptConfig& c : {dense, hash, drop}) {
    OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
    model.init(1);
    test::fill_large(model);
    const OwnedBatch owned(c, 2, 1);
    model.forward(owned.batch, true);
    model.backward(owned.batch);
    const std::vector<float> gradients(model.gradients().as<float>(),
                                       model.gradients().as<float>() + model.table().length);
    if (reference.empty()) reference = gradients;
    EXPECT_EQ(gradients, reference) << c.attention[0][0].pattern;
  }
}

TEST(Gpt, EveryStepDrawsAnewAndEvaluationDoesNot) {
  Context ctx;
  for (const char* pattern : {"hash", "drop"}) {
    const GptConfig c = small_config(pattern);
    OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
    model.init(1);
    test::fill_large(model);
    const auto loss_at = [&](uint32_t step) {
      const OwnedBatch owned(c, 2, 1, step);
      return test::run(model, owned.batch, false).loss;
    };
    EXPECT_NE(loss_at(0), loss_at(1)) << pattern;
    EXPECT_EQ(loss_at(1), loss_at(1)) << pattern;
    EXPECT_EQ(loss_at(kEvaluationStep), loss_at(kEvaluationStep)) << pattern;
  }
}

TEST(Gpt, APatternForEachLayer) {
  Context ctx;
  GptConfig c = small_config();
  c.attention = {small_config("dense").attention[0], small_config("hash").attention[0]};
  OwnedGpt model(ctx, c, 1, 1, Gpt::Mode::kTraining);
  model.init(1);
  const OwnedBatch owned(c, 1, 1);
  model.forward(owned.batch, true);
  EXPECT_EQ(model.activations().blocks[0].segments.relations[0].count(), 1);
  EXPECT_EQ(model.activations().blocks[1].segments.relations[0].count(), 4);
  c.attention.push_back(c.attention[0]);
  EXPECT_THROW(validate(c), Error);
}

// A stage of a schedule computes what a model of these patterns alone does, and has memory for the largest from the
// beginning.
TEST(Gpt, GoesFromStageToStage) {
  Context ctx;
  GptConfig c = small_config();
  c.shared_qk = true;
  const std::vector<HeadPatterns> hash = small_config("hash").attention, dense = small_config().attention,
                                  blocks = small_config("blocks").attention;
  c.schedule = {{0, hash}, {0.25, dense}, {0.5, blocks}, {0.75, hash}};
  c.attention = hash;
  OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
  model.init(1);
  const OwnedBatch owned(c, 2, 1);
  const auto gradients = [](const OwnedGpt& gpt) {
    const Tensor flat = gpt.gradients();
    return std::vector<float>(flat.as<float>(), flat.as<float>() + flat.numel());
  };
  const int64_t bytes = total_bytes(model.memory());
  int64_t largest = 0;
  for (int64_t stage = 0; stage < c.stages(); ++stage) {
    EXPECT_EQ(model.set_stage(stage), stage > 0);
    EXPECT_FALSE(model.set_stage(stage));
    EXPECT_EQ(total_bytes(model.memory()), bytes);
    GptConfig alone = c.at_stage(stage);
    alone.schedule.clear();
    OwnedGpt other(ctx, alone, 2, 1, Gpt::Mode::kTraining);
    other.init(1);
    largest = std::max(largest, total_bytes(other.memory()));
    model.zero_gradients();
    other.zero_gradients();
    EXPECT_EQ(run(model, owned.batch, true).loss, run(other, owned.batch, true).loss);
    model.backward(owned.batch);
    other.backward(owned.batch);
    EXPECT_EQ(gradients(model), gradients(other)) << stage;
  }
  EXPECT_EQ(bytes, largest);
}

// By name, so that a new op has to be put on one side or the other.
TEST(Gpt, AttentionIsToldApartInTheTimesOfAStep) {
  for (const bool shared : {false, true}) {
    GptConfig c = test::small_config("hash");
    c.shared_qk = shared;
    Context ctx;
    OwnedGpt model(ctx, c, 1, 1, Gpt::Mode::kTraining);
    model.init(1);
    const test::OwnedBatch owned(c, 1, 1);
    ctx.profiler().collect(true);
    model.forward(owned.batch, true);
    model.backward(owned.batch);
    ctx.profiler().collect(false);
    std::set<std::string> attention, others;
    for (const auto& [op, time] : ctx.profiler().take()) {
      EXPECT_TRUE(time.category == Category::kAttention || time.category == Category::kOther) << op;
      (time.category == Category::kAttention ? attention : others).insert(op);
    }
    EXPECT_EQ(attention, (std::set<std::string>{"assign_segments", "attention_backward", "attention_forward",
                                                "build_segments", "draw_projections"}));
    EXPECT_EQ(others,
              (std::set<std::string>{"add_losses", "cross_entropy", "embedding_backward", "embedding_forward",
                                     "layernorm_backward", "layernorm_forward", "linear_bgrad", "linear_dgrad",
                                     "linear_forward", "linear_gelu_dgrad", "linear_gelu_forward", "linear_wgrad"}));
  }
}

TEST(Gpt, MemoryPlanIsWhatIsAllocated) {
  Context ctx;
  const GptConfig c = small_config("hash");
  for (const Gpt::Mode mode : {Gpt::Mode::kTraining, Gpt::Mode::kEvaluation, Gpt::Mode::kDecoding}) {
    const OwnedGpt model(ctx, c, 2, 1, mode);
    const std::vector<Arena::Item> plan = Gpt::memory_plan(ctx, c, 2, mode), &real = model.memory();
    ASSERT_EQ(plan.size(), real.size());
    for (size_t i = 0; i < plan.size(); ++i) {
      EXPECT_EQ(plan[i].name, real[i].name);
      EXPECT_EQ(plan[i].bytes, real[i].bytes);
    }
  }
}

TEST(Gpt, FirstNonFiniteNamesTheTensor) {
  Context ctx;
  const GptConfig c = small_config();
  OwnedGpt model(ctx, c, 1, 1, Gpt::Mode::kTraining);
  model.init(1);
  const OwnedBatch owned(c, 1, 1);
  model.forward(owned.batch, true);
  model.backward(owned.batch);
  EXPECT_EQ(model.first_non_finite(), "");
  model.gradients().as<float>()[model.table().at("h.1.mlp.c_fc.weight").offset + 5] = NAN;
  model.gradients().as<float>()[model.table().at("h.0.mlp.c_fc.weight").offset] = NAN;
  EXPECT_EQ(model.first_non_finite(), "gradient of h.1.mlp.c_fc.weight");
  float& weight = model.master_params().as<float>()[model.table().at("h.1.attn.c_attn.weight").offset];
  weight = 3e38f;
  model.forward(owned.batch, false);
  EXPECT_EQ(model.first_non_finite().substr(0, 4), "h.1 ");
  weight = INFINITY;
  EXPECT_EQ(model.first_non_finite(), "parameter h.1.attn.c_attn.weight");
}

// What blocks share after a forward pass is the last one's, which is not to be taken for the first one's.
TEST(Gpt, FirstNonFiniteKnowsWhatIsComputedAgain) {
  Context ctx;
  const GptConfig c = small_config();
  for (const Recompute recompute : kRecomputes) {
    ParameterStore store(ctx, c, {.training = true});
    Gpt model(store, c, 1, 1, Gpt::Mode::kTraining, 0, recompute);
    store.init(1);
    const OwnedBatch owned(c, 1, 1);
    store.master_params().as<float>()[store.table().at("h.1.mlp.c_fc.weight").offset] = 3e38f;
    model.forward(owned.batch, false);
    EXPECT_EQ(model.first_non_finite().substr(0, 4), "h.1 ") << static_cast<int>(recompute);
  }
}

TEST(Params, CountsOfGpt2) {
  GptConfig c;
  c.vocab_size = 50257;
  EXPECT_EQ(c.padded_vocab(), 50304);
  EXPECT_EQ(ParameterTable(c).count, 124475904);  // 124,439,808 with the vocabulary not padded
  c.shared_qk = true;
  c.bias = false;
  EXPECT_EQ(ParameterTable(c).count - 1024 * 768, 116509440);  // the paper's 116.5 M without positions
}

TEST(Params, InitialValuesDependOnNameAndSeedOnly) {
  const GptConfig a = small_config();
  GptConfig b = a;
  b.n_layer = 2;
  b.positions = "rotary";  // moves everything behind wpe
  Context ctx;
  OwnedGpt first(ctx, a, 1, 1, Gpt::Mode::kTraining), second(ctx, b, 1, 1, Gpt::Mode::kTraining);
  first.init(5);
  second.init(5);
  const auto at = [](const OwnedGpt& m, const char* name) {
    return m.master_params().as<float>() + m.table().at(name).offset;
  };
  for (int64_t i = 0; i < 16 * 16; ++i)
    ASSERT_EQ(at(first, "h.1.attn.c_proj.weight")[i], at(second, "h.1.attn.c_proj.weight")[i]);
  double square = 0;
  const ParameterEntry& entry = first.table().at("h.0.mlp.c_fc.weight");
  for (int64_t i = 0; i < entry.size; ++i) square += std::pow(first.master_params().as<float>()[entry.offset + i], 2);
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(entry.size)), 0.02, 0.002);
}

}  // namespace
}  // namespace scfa

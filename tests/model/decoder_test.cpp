#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "core/rng.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/small_model.h"
#include "train/feeder.h"

namespace scfa {
namespace {

// On every position. allowed: positions whose logits may differ by more than rounding.
void expect_decoder_equals_forward(const GptConfig& c, Device device, int64_t allowed) {
  Context ctx(device);
  test::OwnedGpt model(ctx, c, 1, 9, Gpt::Mode::kEvaluation);
  model.init(3);
  test::fill_large(model);
  test::fill_bucket_biases(model);
  const test::OwnedBatch owned(c, 1, 4, kEvaluationStep);
  Feeder feeder(ctx, 1, c.sequence_length);
  Batch batch = feeder.put(owned.ids, owned.targets, owned.samples, owned.batch.step.value);
  batch.step = kEvaluationStep;
  model.forward(batch, false);
  const test::Array all(activation_type(device), {c.sequence_length, c.padded_vocab()});
  if (device == Device::kGpu) {
    const test::GpuCopy logits(ctx, all);
    model.logits(logits, 0);
    logits.download(all);
  } else {
    model.logits(all, 0);
  }
  const std::vector<double> want = all.values();
  // Two orders of sums in f32; in bf16 a few roundings of logits of size one to ten, and of what they come from.
  const double tolerance = device == Device::kGpu ? 0.15 : 3e-5;
  Decoder decoder(model);
  for (int round = 0; round < 2; ++round) {
    int64_t apart = 0;  // positions
    for (int64_t t = 0; t < c.sequence_length; ++t) {
      const ConstTensor logits = decoder.feed(owned.ids[static_cast<size_t>(t)]);
      ASSERT_EQ(logits.numel(), c.vocab_size);
      double largest = 0;
      for (int64_t v = 0; v < c.vocab_size; ++v)
        largest = std::max(largest, std::abs(static_cast<double>(logits.as<float>()[v]) -
                                             want[static_cast<size_t>(t * c.padded_vocab() + v)]));
      apart += !(largest <= tolerance);
    }
    EXPECT_LE(apart, allowed);
    EXPECT_THROW(decoder.feed(0), Error);  // the context is full
    decoder.reset();
  }
}

class DecoderEqualsForward : public testing::TestWithParam<std::tuple<const char*, bool, const char*, Device>> {
 protected:
  void SetUp() override { test::skip_without(std::get<3>(GetParam())); }
};

TEST_P(DecoderEqualsForward, OnEveryPosition) {
  const auto [pattern, shared, positions, device] = GetParam();
  GptConfig c = test::small_config(pattern);
  c.shared_qk = shared;
  c.positions = positions;
  // On a GPU rounding moves a row that lies between two buckets, or two blocks, now and then, and with it everything
  // behind.
  const bool moves = device == Device::kGpu && (std::string(pattern) == "hash" || std::string(pattern) == "blocks");
  expect_decoder_equals_forward(c, device, moves ? c.sequence_length / 4 : 0);
}

TEST_P(DecoderEqualsForward, WithFewerHeadsOfKeysAndValues) {
  const auto [pattern, shared, positions, device] = GetParam();
  if (shared) GTEST_SKIP() << "shared keys have as many heads as queries";
  GptConfig c = test::small_config(pattern);
  c.n_head = device == Device::kGpu ? 2 : 4;  // of a width that kernels take
  c.n_kv_head = c.n_head / 2;
  c.positions = positions;
  const bool moves = device == Device::kGpu && (std::string(pattern) == "hash" || std::string(pattern) == "blocks");
  expect_decoder_equals_forward(c, device, moves ? c.sequence_length / 4 : 0);
}

TEST_P(DecoderEqualsForward, WithDocumentsApart) {
  const auto [pattern, shared, positions, device] = GetParam();
  GptConfig c = test::small_config(pattern);
  c.shared_qk = shared;
  c.positions = positions;
  c.documents = true;
  c.end_of_text = 3;
  const bool moves = device == Device::kGpu && (std::string(pattern) == "hash" || std::string(pattern) == "blocks");
  for (const int64_t window : {0, 4}) {
    c.attention[0][0].window = window;
    expect_decoder_equals_forward(c, device, moves ? c.sequence_length / 4 : 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Decoder, DecoderEqualsForward,
                         testing::Combine(testing::Values("dense", "hash", "drop", "blocks"), testing::Bool(),
                                          testing::Values("learned", "rotary"),
                                          testing::Values(Device::kCpu, Device::kGpu)),
                         [](const auto& row) {
                           return std::string(std::get<0>(row.param)) +
                                  (std::get<1>(row.param) ? "_shared_" : "_separate_") + std::get<2>(row.param) + "_" +
                                  name_of(std::get<3>(row.param));
                         });

struct NamedPatterns {
  const char* name;
  std::vector<HeadPatterns> attention;  // of each layer, or of both
};

void PrintTo(const NamedPatterns& patterns, std::ostream* to) {
  *to << patterns.name;
}

// Windows, rounds, mixtures, and both layers different.
std::vector<NamedPatterns> various_patterns() {
  AttentionPattern window, hash, rounds, probes, drop, balanced, near, biased;
  window.window = 6;
  hash.pattern = "hash", hash.buckets = 4, hash.window = 12;
  rounds.pattern = "hash", rounds.buckets = 4, rounds.rounds = 3;
  probes.pattern = "hash", probes.buckets = 8, probes.probes = 3, probes.balance = "prefix";
  balanced.pattern = "hash", balanced.buckets = 4, balanced.balance = "prefix";
  near.pattern = "hash", near.buckets = 4, near.near = 5;
  biased.pattern = "hash", biased.buckets = 4, biased.rounds = 2, biased.bias_rate = 0.1;
  AttentionPattern biased_too = balanced;
  biased_too.bias_rate = 0.1;
  drop.pattern = "drop", drop.drop_rate = 0.3, drop.attend_self = false;
  const auto of_heads = [](AttentionPattern pattern, int64_t heads) {
    pattern.heads = heads;
    return pattern;
  };
  const HeadPatterns mixture{of_heads(window, 1), of_heads(rounds, 2), of_heads(drop, 0)};
  return {{"window", {{window}}}, {"hash_and_window", {{hash}}},
          {"rounds", {{rounds}}}, {"balanced", {{balanced}}},
          {"near", {{near}}},     {"near_in_some_heads", {{of_heads(near, 1), of_heads(balanced, 0)}}},
          {"biased", {{biased}}}, {"biased_in_some_heads", {{of_heads(near, 1), of_heads(biased_too, 0)}}},
          {"probes", {{probes}}}, {"probes_in_some_heads", {{of_heads(window, 2), of_heads(probes, 0)}}},
          {"mixture", {mixture}}, {"mixture_and_rounds", {mixture, {rounds}}}};
}

class DecoderOfVariousPatterns : public testing::TestWithParam<std::tuple<NamedPatterns, bool, const char*, Device>> {
 protected:
  void SetUp() override { test::skip_without(std::get<3>(GetParam())); }
};

TEST_P(DecoderOfVariousPatterns, EqualsForward) {
  const auto& [patterns, shared, positions, device] = GetParam();
  GptConfig c = test::small_config();
  c.n_head = 4;
  c.n_embd = 32;
  c.attention = patterns.attention;
  c.shared_qk = shared;
  c.positions = positions;
  const bool jumps = device == Device::kGpu && std::string(patterns.name) != "window";
  expect_decoder_equals_forward(c, device, jumps ? c.sequence_length / 4 : 0);
}

INSTANTIATE_TEST_SUITE_P(Decoder, DecoderOfVariousPatterns,
                         testing::Combine(testing::ValuesIn(various_patterns()), testing::Bool(),
                                          testing::Values("learned", "rotary"),
                                          testing::Values(Device::kCpu, Device::kGpu)),
                         [](const auto& row) {
                           return concat(std::get<0>(row.param).name,
                                         std::get<1>(row.param) ? "_shared_" : "_separate_", std::get<2>(row.param),
                                         "_", name_of(std::get<3>(row.param)));
                         });

// What a token sees changes with every later token. Models of other lengths have the same parameters.
TEST(Decoder, WithReformerIsAForwardPassOverTheTextSoFar) {
  Context ctx;
  GptConfig c = test::small_config("reformer");
  c.shared_qk = true, c.positions = "rotary", c.attention[0][0].rounds = 2;
  const test::OwnedBatch owned(c, 1, 4, kEvaluationStep);
  test::OwnedGpt longest(ctx, c, 1, 9, Gpt::Mode::kDecoding);
  longest.init(3);
  test::fill_large(longest);
  Decoder decoder(longest);
  for (int64_t length = 1; length <= c.sequence_length; ++length) {
    const ConstTensor logits = decoder.feed(owned.ids[static_cast<size_t>(length - 1)]);
    if (length % 8 != 1) continue;
    GptConfig shorter = c;
    shorter.sequence_length = length;
    test::OwnedGpt model(ctx, shorter, 1, 9, Gpt::Mode::kEvaluation);
    model.init(3);
    test::fill_large(model);
    test::OwnedBatch part(shorter, 1, 4, kEvaluationStep);
    std::copy_n(owned.ids.begin(), length, part.ids.begin());
    model.forward(part.batch, false);
    const test::Array all({length, c.padded_vocab()});
    model.logits(all, 0);
    for (int64_t v = 0; v < c.vocab_size; ++v)
      ASSERT_NEAR(logits.as<float>()[v], all.as<float>()[(length - 1) * c.padded_vocab() + v], 3e-5) << length;
  }
  EXPECT_THROW(decoder.feed(0), Error);
  decoder.reset();
  decoder.feed(owned.ids[0]);
  EXPECT_EQ(decoder.length(), 1);
}

class DecoderThatSlides : public testing::TestWithParam<std::tuple<const char*, const char*, int64_t>> {};

TEST_P(DecoderThatSlides, EqualsOneThatBeganWithTheLastHalf) {
  const auto [pattern, positions, context] = GetParam();
  GptConfig c = test::small_config(pattern);
  c.positions = positions;
  c.sequence_length = context;
  Context ctx(Device::kCpu);
  test::OwnedGpt model(ctx, c, 1, 9, Gpt::Mode::kDecoding);
  model.init(3);
  test::fill_large(model);
  SlidingDecoder sliding(model);
  Decoder fresh(model);
  const int64_t half = std::max<int64_t>(1, context / 2);
  std::vector<int32_t> seen;  // since the text that the decoder knows begins
  std::mt19937 random(5);
  for (int round = 0; round < 2; ++round) {
    for (int64_t t = 0; t < 3 * context; ++t) {
      const auto token = static_cast<int32_t>(random() % static_cast<unsigned>(c.vocab_size));
      seen.push_back(token);
      ConstTensor want;
      if (static_cast<int64_t>(seen.size()) > context) {
        seen.erase(seen.begin(), seen.end() - half);
        fresh.reset();
        for (const int32_t kept : seen) want = fresh.feed(kept);
      } else {
        want = fresh.feed(token);
      }
      const std::vector<float> logits(want.as<float>(), want.as<float>() + c.vocab_size);
      const ConstTensor got = sliding.feed(token);
      ASSERT_EQ(std::vector<float>(got.as<float>(), got.as<float>() + c.vocab_size), logits) << t;
      EXPECT_EQ(sliding.full(), static_cast<int64_t>(seen.size()) == context);
    }
    sliding.reset();
    fresh.reset();
    seen.clear();
  }
}

INSTANTIATE_TEST_SUITE_P(Decoder, DecoderThatSlides,
                         testing::Combine(testing::Values("dense", "hash"), testing::Values("learned", "rotary"),
                                          testing::Values(1, 2, 9, 16)),
                         [](const auto& row) {
                           return concat(std::get<0>(row.param), "_", std::get<1>(row.param), "_",
                                         std::get<2>(row.param));
                         });

std::vector<int64_t> histogram(const std::vector<float>& logits, const SamplingOptions& options, int draws) {
  std::vector<int64_t> counts(logits.size(), 0);
  const ConstTensor view(logits.data(), DType::kF32, Device::kCpu, {static_cast<int64_t>(logits.size())});
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sample_token(view, options, (i + 0.5) / draws))];
  return counts;
}

TEST(SampleToken, FollowsTheProbabilities) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.6f), std::log(0.05f), std::log(0.25f)};
  EXPECT_EQ(histogram(logits, {}, 1000), (std::vector<int64_t>{100, 600, 50, 250}));
  EXPECT_EQ(histogram(logits, {.temperature = 0}, 10), (std::vector<int64_t>{0, 10, 0, 0}));
  EXPECT_EQ(histogram(logits, {.top_k = 2}, 850), (std::vector<int64_t>{0, 600, 0, 250}));
  EXPECT_EQ(histogram(logits, {.top_p = 0.9}, 950), (std::vector<int64_t>{100, 600, 0, 250}));
  EXPECT_EQ(histogram(logits, {.top_p = 0.01}, 10), (std::vector<int64_t>{0, 10, 0, 0}));
  const std::vector<int64_t> flat = histogram(logits, {.temperature = 1e6}, 1000);
  for (const int64_t count : flat) EXPECT_NEAR(static_cast<double>(count), 250.0, 3.0);
  EXPECT_THROW(histogram(logits, {.temperature = -1}, 1), Error);
  EXPECT_THROW(histogram(logits, {.top_p = 0}, 1), Error);
}

TEST(SampleToken, RefusesLogitsThatAreNotFinite) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan})
    for (size_t at = 0; at < 3; ++at)
      for (const double temperature : {0.0, 1.0}) {
        std::vector<float> logits(3, 0.5f);
        logits[at] = bad;
        test::expect_error([&] { histogram(logits, {.temperature = temperature, .top_k = 1}, 1); },
                           {"not finite", concat("token ", at).c_str()});
      }
}

}  // namespace
}  // namespace scfa

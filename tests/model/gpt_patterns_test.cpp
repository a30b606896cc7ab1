// Models whose heads see different things.
#include <gtest/gtest.h>

#include <string>

#include "support/compare.h"
#include "support/expect_error.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::OwnedGpt;
using test::small_config;

// Tokens to logits: what comes later changes nothing. Logits before it are equal up to the order of sums in f32 (BLAS
// takes the queries of a segment together, and how many there are depends on what comes later).
TEST(GptPatterns, LaterTokensChangeNoEarlierLogits) {
  Context ctx;
  for (const std::string& name : pattern_names()) {
    GptConfig c = small_config(name);
    if (!is_causal(c.attention[0][0])) continue;
    for (const bool shared : {false, true})
      for (const int64_t rounds : {1, 2}) {
        c.shared_qk = shared;
        c.attention[0][0].rounds = rounds;
        OwnedGpt model(ctx, c, 1, 1, Gpt::Mode::kEvaluation);
        model.init(3);
        test::fill_large(model);
        const int64_t T = c.sequence_length, from = 20;
        const test::Array before({T, c.padded_vocab()}), after({T, c.padded_vocab()});
        OwnedBatch owned(c, 1, 4);
        model.forward(owned.batch, false);
        model.logits(before, 0);
        for (int64_t t = from; t < T; ++t) {
          int32_t& id = owned.ids[static_cast<size_t>(t)];
          id = static_cast<int32_t>((id + 7) % c.vocab_size);
        }
        model.forward(owned.batch, false);
        model.logits(after, 0);
        EXPECT_TRUE(test::close(after.view().slice(0, from), test::values(before.view().slice(0, from)), 1e-5)) << name;
        EXPECT_NE(test::values(after.view().slice(from, 1)), test::values(before.view().slice(from, 1)));
      }
  }
}

// The segments of a mixture's layer, in memory that the plan has and in the ops of a step.
TEST(GptPatterns, AMixtureOfRoundsAndWindows) {
  Context ctx;
  GptConfig c = small_config("hash");
  AttentionPattern window;
  window.window = 5, window.heads = 1;
  c.attention[0][0].rounds = 3;
  c.attention[0].push_back(window);
  OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
  model.init(1);
  test::fill_large(model);
  OwnedBatch owned(c, 2, 1);
  model.forward(owned.batch, true);
  model.backward(owned.batch);
  const LayerSegments& layer = model.activations().blocks[0].segments;
  ASSERT_EQ(layer.relations.size(), 3u);
  EXPECT_TRUE(layer.relations[0].has_ranges());
  EXPECT_EQ(layer.relations[1].q_segment.as<uint16_t>()[c.sequence_length], kNoSegment);  // of the windowed head
  EXPECT_EQ(layer.relations[0].q_segment.as<uint16_t>()[c.sequence_length], 0);
  owned.batch.q_segments = Tensor(owned.ids.data(), DType::kU16, Device::kCpu, {2, 2, 2, 33});
  owned.batch.k_segments = owned.batch.q_segments;
  test::expect_error([&] { model.forward(owned.batch, false); }, {"forward: segments", "one relation", "3"});
}

TEST(GptPatterns, WhatAModelCannotHaveIsNamed) {
  GptConfig c = small_config("reformer");
  test::expect_error([&] { validate(c); }, {"reformer", "model.shared_qk"});
  c.shared_qk = true;
  validate(c);
  c.attention[0][0].rounds = 5;
  test::expect_error([&] { validate(c); }, {"attention.rounds", "1 to 4", "not 5"});
  c = small_config("blocks");
  c.sequence_length = 8193, c.attention[0][0].block = 2;
  test::expect_error([&] { validate(c); }, {"blocks of 2", "4097 segments", "4096"});
  c.attention[0][0].block = 3, c.attention[0][0].top_k = 9;
  test::expect_error([&] { validate(c); }, {"attention.top_k", "1 to 8", "not 9"});
}

}  // namespace
}  // namespace scfa

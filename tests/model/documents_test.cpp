// Models in which no token sees those before its own document.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/rng.h"
#include "model/gpt.h"
#include "support/array.h"
#include "support/compare.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::OwnedGpt;
using test::small_config;

// The logits of the tokens that lie behind `after` in the first sequence.
std::vector<double> logits_behind(Gpt& model, const OwnedBatch& owned, int64_t after) {
  const GptConfig& c = model.config();
  model.forward(owned.batch, false);
  const test::Array all({c.sequence_length, c.padded_vocab()});
  model.logits(all, 0);
  return test::values(all.view().slice(after + 1, c.sequence_length - after - 1));
}

TEST(Gpt, NobodySeesAcrossTheEndOfADocument) {
  Context ctx;
  constexpr int64_t kEnd = 20;  // where OwnedBatch has the last end_of_text
  for (const char* pattern : {"dense", "hash", "drop"})
    for (const int64_t window : {0, 30})
      for (const bool documents : {false, true}) {
        GptConfig c = small_config(pattern);
        c.attention[0][0].window = window;
        c.documents = true;
        c.end_of_text = 3;
        OwnedBatch one(c, 1, 11, kEvaluationStep), other(c, 1, 11, kEvaluationStep);
        for (int64_t t = 0; t < kEnd; ++t) other.ids[static_cast<size_t>(t)] = static_cast<int32_t>(4 + t % 40);
        c.documents = documents;
        OwnedGpt model(ctx, c, 1, 7, Gpt::Mode::kEvaluation);
        model.init(3);
        test::fill_large(model);
        const std::vector<double> a = logits_behind(model, one, kEnd), b = logits_behind(model, other, kEnd);
        SCOPED_TRACE(concat(pattern, ", window ", window, ", documents ", documents));
        if (!documents)
          EXPECT_FALSE(test::close(a, b, 1e-3));
        else if (std::string(pattern) == "hash")  // GEMMs of other sizes, rounded elsewhere
          EXPECT_TRUE(test::close(a, b, 1e-5));
        else
          EXPECT_EQ(a, b);
        EXPECT_NE(logits_behind(model, one, 9), logits_behind(model, other, 9));  // within the document
      }
}

TEST(Gpt, OneDocumentIsAsNone) {
  Context ctx;
  for (const char* pattern : {"dense", "hash", "drop"}) {
    GptConfig c = small_config(pattern);
    std::vector<float> of_none;
    for (const bool documents : {false, true}) {
      c.documents = documents;
      c.end_of_text = 49;
      OwnedBatch batch(small_config(pattern), 2, 1);
      for (int32_t& id : batch.ids) id = std::min(id, 48);
      OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kTraining);
      model.init(1);
      test::fill_large(model);
      model.forward(batch.batch, true);
      model.backward(batch.batch);
      const std::vector<float> gradients(model.gradients().as<float>(),
                                         model.gradients().as<float>() + model.table().length);
      if (documents)
        EXPECT_EQ(gradients, of_none) << pattern;
      else
        of_none = gradients;
    }
  }
}

}  // namespace
}  // namespace scfa

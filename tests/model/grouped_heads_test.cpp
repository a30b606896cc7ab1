// Models with fewer heads of keys and values than of queries.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "model/gpt.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::OwnedGpt;
using test::small_config;

// Where the weights of keys and values are those of fewer heads, repeated, so are their gradients, added up.
TEST(Gpt, GroupedHeadsAreRepeatedHeads) {
  Context ctx;
  GptConfig grouped = small_config("hash");
  grouped.n_head = 4;
  grouped.n_kv_head = 2;
  GptConfig repeated = grouped;
  repeated.n_kv_head = 4;
  OwnedGpt few(ctx, grouped, 2, 1, Gpt::Mode::kTraining), many(ctx, repeated, 2, 1, Gpt::Mode::kTraining);
  few.init(1);
  test::fill_large(few);
  const int64_t C = grouped.n_embd, D = grouped.head_dim(), H = 4, heads = 2;
  // Row of the grouped matrix from which a row of the repeated one comes.
  const auto source = [&](int64_t row) {
    const int64_t head = row / D;
    const int64_t from = head < H ? head : head < 2 * H ? H + (head - H) / 2 : H + heads + (head - 2 * H) / 2;
    return from * D + row % D;
  };
  const auto is_of_attn = [](const ParameterEntry& entry) { return entry.name.find("c_attn") != std::string::npos; };
  for (const ParameterEntry& entry : many.table().entries) {
    const ParameterEntry& other = few.table().at(entry.name);
    const float* from = few.master_params().as<float>() + other.offset;
    float* to = many.master_params().as<float>() + entry.offset;
    const int64_t width = is_of_attn(entry) ? (entry.shape.size() == 2 ? C : 1) : entry.size;
    for (int64_t row = 0; row < entry.size / width; ++row)
      std::copy_n(from + (is_of_attn(entry) ? source(row) : row) * width, width, to + row * width);
  }
  const OwnedBatch owned(grouped, 2, 1);
  const double loss = test::run(few, owned.batch, true).loss;
  few.backward(owned.batch);
  EXPECT_NEAR(test::run(many, owned.batch, true).loss, loss, 1e-4);
  many.backward(owned.batch);
  for (const ParameterEntry& entry : few.table().entries) {
    const ParameterEntry& other = many.table().at(entry.name);
    std::vector<float> want(static_cast<size_t>(entry.size), 0.0f);
    const int64_t width = is_of_attn(entry) ? (entry.shape.size() == 2 ? C : 1) : entry.size;
    for (int64_t row = 0; row < other.size / width; ++row)
      for (int64_t i = 0; i < width; ++i)
        want[static_cast<size_t>((is_of_attn(entry) ? source(row) : row) * width + i)] +=
            many.gradients().as<float>()[other.offset + row * width + i];
    for (int64_t i = 0; i < entry.size; ++i)
      ASSERT_NEAR(few.gradients().as<float>()[entry.offset + i], want[static_cast<size_t>(i)],
                  2e-5 + 1e-3 * std::abs(want[static_cast<size_t>(i)]))
          << entry.name << " " << i;
  }
}

TEST(Params, FewerHeadsOfKeysAndValues) {
  GptConfig c;
  c.vocab_size = 50257;
  const int64_t whole = ParameterTable(c).count;
  const double flops = model_flops_per_token(c);
  c.n_kv_head = 12;
  EXPECT_EQ(ParameterTable(c).count, whole);
  c.n_kv_head = 3;  // of keys and of values 9 heads of 64 rows less, in 12 layers
  EXPECT_EQ(ParameterTable(c).at("h.0.attn.c_attn.weight").shape, (std::vector<int64_t>{(12 + 2 * 3) * 64, 768}));
  EXPECT_EQ(whole - ParameterTable(c).count, 12 * 2 * 9 * 64 * (768 + 1));
  EXPECT_NEAR(flops - model_flops_per_token(c), 6.0 * 12 * 2 * 9 * 64 * 768, 1.0);
}

}  // namespace
}  // namespace scfa

// The recall of patterns against sums of probabilities over a dense matrix of scores.
#include "model/recall.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "core/rng.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/formulas.h"
#include "support/gpu.h"
#include "support/small_model.h"

namespace scfa {
namespace {

using test::OwnedBatch;
using test::OwnedGpt;
using test::small_config;

// A contiguous tensor of either device as doubles.
std::vector<double> on_host(const Context& ctx, const Tensor& tensor) {
  const test::Array host("copy", tensor);
  ctx.copy(host, tensor);
  return host.values();
}

// What `patterns` let the queries of these activations see: how often, [b, h, i, j].
std::vector<uint8_t> seen_under(const Context& ctx, const LayerSegments& layer, const ConstTensor& document_start) {
  std::vector<uint8_t> seen;
  for (size_t r = 0; r < layer.relations.size(); ++r) {
    const Segments& relation = layer.relations[r];
    const test::Array q("ids", relation.q_segment), k("ids", relation.k_segment);
    ctx.copy(q, relation.q_segment), ctx.copy(k, relation.k_segment);
    Segments on_cpu;
    on_cpu.q_segment = q, on_cpu.k_segment = k;
    const std::vector<uint8_t> in_it =
        test::visibility({&on_cpu, 1}, visibility(layer.patterns, static_cast<int64_t>(r)), document_start);
    seen.resize(in_it.size());
    for (size_t i = 0; i < seen.size(); ++i) seen[i] = static_cast<uint8_t>(seen[i] + in_it[i]);
  }
  return seen;
}

std::vector<bool> attend_self_by_head(const HeadPatterns& patterns) {
  std::vector<bool> of_head;
  for (const AttentionPattern& pattern : patterns)
    of_head.insert(of_head.end(), static_cast<size_t>(pattern.heads), attends_self(pattern));
  return of_head;
}

// By head, of the first sequences.
std::vector<HeadRecall> recall_by_definition(const Context& ctx, const GptConfig& c, const BlockActivations& a,
                                             const ConstTensor& document_start, int64_t sequences) {
  const int64_t T = a.lse.size(2), H = c.n_head, D = c.head_dim(), W = c.qkv_heads();
  const std::vector<double> qkv = on_host(ctx, a.qkv),
                            shared = c.shared_qk ? on_host(ctx, a.shared_keys) : std::vector<double>();
  const std::vector<uint8_t> seen = seen_under(ctx, a.segments, document_start);
  const std::vector<bool> self = attend_self_by_head(a.segments.patterns);
  std::vector<HeadRecall> of_head(static_cast<size_t>(H));
  for (int64_t row = 0; row < sequences * H * T; ++row) {
    const int64_t b = row / (H * T), h = row / T % H, i = row % T;
    HeadRecall& head = of_head[static_cast<size_t>(h)];
    const int64_t begin = document_start ? document_start.as<int32_t>()[b * T + i] : 0;
    const int64_t end = self[static_cast<size_t>(h)] ? i + 1 : i;
    double all = 0, kept = 0;
    for (int64_t j = begin; j < end; ++j) {
      const int64_t group = h / (H / c.kv_heads());
      const double* q = qkv.data() + ((b * T + i) * W + h) * D;
      const double* k =
          c.shared_qk ? shared.data() + ((b * T + j) * H + h) * D : qkv.data() + ((b * T + j) * W + H + group) * D;
      double score = 0;
      for (int64_t d = 0; d < D; ++d) score += q[d] * k[d];
      const double weight = std::exp(score * static_cast<double>(c.softmax_scale()));
      const double times = seen[static_cast<size_t>(row * T + j)];
      all += weight;
      kept += times * weight;
      head.pairs += times;
      ++head.dense_pairs;
    }
    if (end <= begin) continue;
    head.recall += std::min(1.0, kept / all);
    ++head.queries;
  }
  return of_head;
}

struct Case {
  const char* name;
  std::vector<HeadPatterns> patterns, trained;
  bool shared = false, documents = false;
  int64_t kv_heads = 0;
};

std::vector<Case> cases() {
  const AttentionPattern hash{.pattern = "hash", .buckets = 4, .attend_self = {}};
  const AttentionPattern dense{.attend_self = {}};
  AttentionPattern twice = hash, self = hash, window = dense, first_hash = hash, blocks = dense;
  twice.rounds = 2;
  self.attend_self = true;
  window.window = 5;
  first_hash.heads = 1;
  blocks.pattern = "blocks", blocks.block = 8, blocks.top_k = 2;
  return {{"hash", {{hash}}, {{hash}}, true},
          {"hash_for_dense", {{hash}}, {{dense}}},
          {"hash_with_self_for_dense", {{self}}, {{dense}}, true},
          {"rounds", {{twice}}, {{twice}}},
          {"documents", {{hash}}, {{dense}}, false, true},
          {"window", {{window}}, {{dense}}},
          {"mixture_for_dense", {{first_hash, window}}, {{dense}}, true},
          {"by_layer", {{hash}, {window}}, {{dense}, {hash}}},
          {"groups", {{hash}}, {{hash}}, false, false, 1},
          {"blocks", {{blocks}}, {{dense}}}};
}

class Recall : public testing::TestWithParam<std::tuple<Case, Device>> {
 protected:
  void SetUp() override { test::skip_without(std::get<1>(GetParam())); }
};

TEST_P(Recall, IsTheMassOnPairsThatThePatternLeaves) {
  const auto& [of, device] = GetParam();
  Context ctx(device);
  GptConfig c = small_config();
  c.attention = of.patterns;
  c.shared_qk = of.shared;
  c.n_kv_head = of.kv_heads;
  c.documents = of.documents;
  if (c.documents) c.end_of_text = 3;
  const int64_t B = 3, sequences = 2;
  OwnedGpt model(ctx, c, B, 1, Gpt::Mode::kEvaluation);
  model.init(3);
  test::fill_large(model);
  OwnedBatch owned(c, B, 4, kEvaluationStep);
  Batch batch = owned.batch;
  batch.rows = sequences;
  std::vector<Buffer> copies;  // of the batch on the device
  for (ConstTensor* tensor : {&batch.ids, &batch.targets, &batch.samples}) {
    copies.emplace_back(static_cast<size_t>(tensor->bytes()), device);
    Tensor to(copies.back().data(), DType::kI32, device, {tensor->numel()});
    ctx.copy(to, ConstTensor(tensor->data, DType::kI32, Device::kCpu, {tensor->numel()}));
    tensor->data = to.data, tensor->device = device;
  }
  const double alone = test::run(model, batch, false).loss;
  const RecallMeter meter(model, of.trained);
  const double dense_loss = test::run(model, batch, false).loss;
  std::vector<std::vector<HeadRecall>> want;
  test::Array starts(DType::kI32, {B, c.sequence_length});
  if (c.documents) ctx.copy(starts, model.activations().document_start);
  for (const BlockActivations& a : model.activations().blocks)
    want.push_back(recall_by_definition(ctx, c, a, c.documents ? ConstTensor(starts) : ConstTensor(), sequences));
  const double tolerance = device == Device::kGpu ? 1e-3 : 1e-5;
  for (size_t l = 0; l < want.size(); ++l)
    for (size_t h = 0; h < want[l].size(); ++h) {
      const HeadRecall &got = meter.heads()[l][h], &expected = want[l][h];
      EXPECT_EQ(got.queries, expected.queries) << l << ' ' << h;
      EXPECT_EQ(got.pairs, expected.pairs) << l << ' ' << h;
      EXPECT_EQ(got.dense_pairs, expected.dense_pairs) << l << ' ' << h;
      EXPECT_NEAR(got.recall / static_cast<double>(got.queries), expected.recall / static_cast<double>(got.queries),
                  tolerance)
          << l << ' ' << h;
      EXPECT_LT(got.recall, static_cast<double>(got.queries));
    }
  // What the layers went on with: dense attention as the weights were trained with it.
  GptConfig dense = c;
  dense.attention.clear();
  for (const HeadPatterns& patterns : of.trained)
    dense.attention.push_back(HeadPatterns{AttentionPattern{.attend_self = attends_self(patterns[0])}});
  Gpt reference(model.store(), dense, B, 1, Gpt::Mode::kEvaluation);
  EXPECT_NEAR(dense_loss, test::run(reference, batch, false).loss, device == Device::kGpu ? 0.05 : 1e-3);
  EXPECT_NE(dense_loss, alone);
}

INSTANTIATE_TEST_SUITE_P(Model, Recall,
                         testing::Combine(testing::ValuesIn(cases()), testing::Values(Device::kCpu, Device::kGpu)),
                         [](const auto& of) {
                           return concat(std::get<0>(of.param).name, '_', name_of(std::get<1>(of.param)));
                         });

TEST(RecallMeter, DenseAttentionHasARecallOfOneAndTheModelIsAsBefore) {
  Context ctx;
  const GptConfig c = small_config();
  OwnedGpt model(ctx, c, 2, 1, Gpt::Mode::kEvaluation);
  model.init(3);
  test::fill_large(model);
  const OwnedBatch owned(c, 2, 4);
  const double before = test::run(model, owned.batch, false).loss;
  {
    const RecallMeter meter(model, c.attention);
    for (int pass = 0; pass < 2; ++pass) EXPECT_EQ(test::run(model, owned.batch, false).loss, before);
    for (const std::vector<HeadRecall>& layer : meter.heads())
      for (const HeadRecall& head : layer) {
        EXPECT_EQ(head.queries, 2 * 2 * c.sequence_length);
        EXPECT_EQ(head.recall, static_cast<double>(head.queries));
        EXPECT_EQ(head.pairs, head.dense_pairs);
      }
  }
  EXPECT_EQ(test::run(model, owned.batch, false).loss, before);
}

TEST(RecallMeter, WhatDoesNotFitIsNamed) {
  Context ctx;
  const GptConfig c = small_config();
  OwnedGpt training(ctx, c, 1, 1, Gpt::Mode::kTraining), model(ctx, c, 1, 1, Gpt::Mode::kEvaluation);
  test::expect_error([&] { RecallMeter(training, c.attention); }, "set_attention: the model was made for training");
  test::expect_error([&] { RecallMeter(model, std::vector<HeadPatterns>(3, HeadPatterns(1))); },
                     "must be one entry or a list of model.n_layer = 2");
}

}  // namespace
}  // namespace scfa

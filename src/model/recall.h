// Which share of the attention mass of dense attention lies on the pairs that other patterns leave visible.
//
// With the lse of a query under the pattern and under dense attention, over the same q and k, its recall is
// exp2(lse_pattern - lse_dense): the sum of dense attention's probabilities over the keys that the pattern lets it see.
#pragma once
#include <vector>

#include "core/buffer.h"
#include "model/gpt.h"

namespace scfa {

struct HeadRecall {
  double recall = 0;       // summed over queries, at most 1 each
  int64_t queries = 0;     // that see a key under dense attention
  double pairs = 0;        // that the pattern leaves, once for every relation; of all queries
  double dense_pairs = 0;  // that dense attention has
};

// While it lives, forward passes of the model run dense attention and are measured against the patterns of the model's
// config. Dense attention is that over all earlier tokens of a query's document, without windows. Two of them:
//   - what the layers go on with: each head sees itself or not as in the patterns that the weights were trained with,
//     so that activations are those of a model trained with dense attention where `trained` is dense
//   - what the recall is a share of: each head sees itself or not as in the pattern measured, so that a pattern which
//     could see all would have a recall of 1. It costs an attention of its own only where the two differ
// A pair that a query sees in several relations counts that often in lse_pattern; a query's recall is therefore cut at
// 1, and with rounds an upper bound. A query that sees no key has recall 0; one that sees none under dense attention is
// left out.
class RecallMeter {
 public:
  // trained: the patterns that the weights were trained with, as GptConfig::attention. The model, made for evaluation,
  // must outlive the meter. Throws Error if memory does not suffice.
  RecallMeter(Gpt& model, const std::vector<HeadPatterns>& trained);
  ~RecallMeter();
  RecallMeter(const RecallMeter&) = delete;
  RecallMeter& operator=(const RecallMeter&) = delete;

  static int64_t memory(const Context& ctx, const GptConfig& config, int64_t batch);  // bytes on the device

  // By layer and head, summed over the sequences that counted in the loss of all passes so far.
  const std::vector<std::vector<HeadRecall>>& heads() const { return heads_; }

 private:
  struct Tensors {
    LayerSegments dense;
    Tensor out, lse;  // (B, T, C), (B, H, T): results that the layers do not go on with
    Tensor scratch;
  };
  static Tensors plan(Arena& arena, const Context& ctx, const GptConfig& config, int64_t batch, int64_t length);

  void attend(int64_t layer, const BlockActivations& a, const Batch& batch);
  // Attention over all earlier tokens of the document; patterns: whose heads say whether they see themselves.
  void attend_densely(const Heads& heads, const HeadPatterns& patterns, const Tensor& out, const Tensor& lse);
  void add(int64_t layer, const BlockActivations& a, int64_t sequences);

  Gpt& model_;
  Context& ctx_;
  std::vector<HeadPatterns> trained_;  // of each layer, with the number of heads of each
  Arena arena_;
  Tensors tensors_;
  std::vector<float> pattern_lse_, dense_lse_;  // on the host
  std::vector<std::vector<HeadRecall>> heads_;
};

}  // namespace scfa

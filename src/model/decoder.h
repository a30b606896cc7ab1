// Token-by-token inference with a key/value cache. Keys are cached by layer, head and segment, so a query reads only
// the segment it belongs to (for hash: its bucket). Logits equal those of Gpt::forward over the whole sequence, sample
// 0, at the evaluation step. CPU only for now.
#pragma once
#include <vector>

#include "model/gpt.h"

namespace scfa {

class Decoder {
 public:
  explicit Decoder(Gpt& model);

  // Feeds the next token and returns the logits (vocab_size) of what follows it; valid until the next call.
  // Throws Error once sequence_length tokens were fed.
  ConstTensor feed(int32_t token);

  int64_t length() const { return length_; }
  void reset();

 private:
  struct Bucket {
    std::vector<float> keys, values;  // (n, D), in position order
  };
  void attend(int64_t layer, const BlockActivations& a);

  Gpt& model_;
  Context& ctx_;
  Arena arena_;
  Activations acts_;
  Tensor ids_, logits_;
  std::vector<std::vector<Bucket>> cache_;  // [layer][head * segments + segment]
  int64_t length_ = 0;
};

struct SamplingOptions {
  double temperature = 1.0;  // 0 takes the most likely token
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;        // smallest set of tokens whose probabilities reach this
};

// Draws a token from logits (V); uniform is a number in [0, 1).
int32_t sample_token(ConstTensor logits, const SamplingOptions& options, double uniform);

}  // namespace scfa

// Token-by-token inference with a key/value cache. The segment of each key is cached beside it, so a query reads only
// the keys of the segment it belongs to (for hash: its bucket). Logits equal those of Gpt::forward over the whole
// sequence, sample 0, at the evaluation step, up to the order of f32 sums and, on a GPU, rounding to bf16. Where a
// pattern is not causal (reformer), what earlier tokens see changes with every token, and nothing can be cached: then
// each token takes a forward pass over the text so far.
#pragma once
#include <vector>

#include "kernels/attention/decode.h"
#include "model/gpt.h"

namespace scfa {

class Decoder {
 public:
  explicit Decoder(Gpt& model);

  // Feeds the next token and returns the logits (vocab_size, f32, on the host) of what follows it; valid until the next
  // call.
  // Throws Error once sequence_length tokens were fed.
  ConstTensor feed(int32_t token);

  int64_t length() const { return length_; }
  void reset() { length_ = document_begin_ = 0, text_.clear(); }

 private:
  void attend(int64_t layer, const BlockActivations& a);
  // From ids (1, T) to the logits of the last token; run_block runs one layer.
  template <class RunBlock>
  void run_layers(const Tensor& ids, int64_t first_position, const Tensor& samples, const RunBlock& run_block);
  void forward_cached(int32_t token);
  void forward_whole();
  void read_logits();

  Gpt& model_;
  Context& ctx_;
  Buffer memory_;
  Activations acts_;
  Tensor ids_, samples_, logits_;
  std::vector<KeyValueCache> cache_;  // one per layer
  const bool causal_;
  std::vector<int32_t> text_;  // what was fed
  std::vector<float> host_logits_;
  int64_t length_ = 0;
  int64_t document_begin_ = 0;  // the first position that may be seen: with documents, that of the current one
};

// Goes on where the context is full: the last half of it, the new token included, is fed anew from position 0, so that
// keys, values and positions, learned or rotary, are those of a text that begins there. What lies before is forgotten.
class SlidingDecoder {
 public:
  explicit SlidingDecoder(Gpt& model) : decoder_(model), context_length_(model.config().sequence_length) {}

  ConstTensor feed(int32_t token);  // as Decoder's, without end

  bool full() const { return decoder_.length() == context_length_; }
  void reset();

 private:
  Decoder decoder_;
  int64_t context_length_;
  std::vector<int32_t> context_;  // what the decoder was fed
};

struct SamplingOptions {
  double temperature = 1.0;  // 0 takes the most likely token
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;        // smallest set of tokens whose probabilities reach this
};

// Draws a token from logits (V); uniform is a number in [0, 1). Throws Error if a logit is not finite.
int32_t sample_token(ConstTensor logits, const SamplingOptions& options, double uniform);

}  // namespace scfa

#include "model/config.h"

#include "kernels/rotary.h"

namespace scfa {

void validate(const GptConfig& c) {
  require(c.vocab_size > 0, "model.vocab_size: must be at least 1, not ", c.vocab_size);
  require(c.n_embd % c.n_head == 0, "model.n_embd: must be a multiple of model.n_head = ", c.n_head, ", not ",
          c.n_embd);
  require(c.n_head % c.kv_heads() == 0, "model.n_kv_head: must be a divisor of model.n_head = ", c.n_head,
          ", or 0 for as many, not ", c.n_kv_head);
  require(!c.shared_qk || c.kv_heads() == c.n_head,
          "model.n_kv_head: with model.shared_qk keys are the queries, so it must be 0 or model.n_head = ", c.n_head,
          ", not ", c.n_kv_head);
  require(!c.rotary() || c.head_dim() % 2 == 0,
          "model.n_embd: rotary positions need an even head dim, n_embd / n_head, not ", c.head_dim());
  require(!c.rotary() || c.head_dim() <= kMaxRotaryDim, "model.n_head: rotary positions take head dims up to ",
          kMaxRotaryDim, ", not n_embd / n_head = ", c.head_dim());
  require(!c.documents || (c.end_of_text >= 0 && c.end_of_text < c.vocab_size),
          "model.end_of_text: with model.documents it must be an entry of the vocabulary, 0 to ", c.vocab_size - 1,
          ", not ", c.end_of_text);
  const auto layers = static_cast<int64_t>(c.attention.size());
  require(layers == 1 || layers == c.n_layer, "attention: must be one entry or a list of model.n_layer = ", c.n_layer,
          ", not of ", layers);
  for (const HeadPatterns& patterns : c.attention) {
    validate(patterns, c.n_head);
    for (const AttentionPattern& pattern : patterns) {
      require(c.shared_qk || !shares_keys(pattern), "attention.pattern: ", pattern.pattern,
              " is for models whose keys are their queries; set model.shared_qk to true");
      const int64_t segments = segment_count(pattern, c.sequence_length);
      require(segments <= kMaxSegments, "attention: ", describe(pattern), " would be ", segments, " segments of ",
              c.sequence_length, " tokens; there can be ", kMaxSegments);
    }
  }
}

void validate_for_gpu(const GptConfig& c) {
  constexpr const char* kOtherwise = "; set device to cpu for this model";
  require(c.head_dim() % 8 == 0 && c.head_dim() <= 128, "model.n_head: on the GPU the head dim, n_embd / n_head, must ",
          "be a multiple of 8 up to 128, not ", c.head_dim(), kOtherwise);
  require(c.n_embd <= 4096, "model.n_embd: on the GPU it must be at most 4096, not ", c.n_embd, kOtherwise);
  require(c.sequence_length <= 131072, "model.sequence_length: on the GPU it must be at most 131072, not ",
          c.sequence_length, kOtherwise);
}

std::string describe_patterns(const GptConfig& c) {
  std::string text;
  for (const HeadPatterns& patterns : c.attention) text += (text.empty() ? "" : " | ") + describe(patterns);
  return c.documents ? text + ", documents apart" : text;
}

double model_flops_per_token(const GptConfig& c) {
  const double C = static_cast<double>(c.n_embd), L = static_cast<double>(c.n_layer);
  const double block = C * (static_cast<double>(c.qkv_width()) + C + 8 * C);
  const double weights = L * block + C * static_cast<double>(c.padded_vocab());
  double keys = 0;  // a token sees on average, over all layers
  for (int64_t l = 0; l < c.n_layer; ++l)
    keys += share_of_pairs(c.patterns(l), c.n_head, c.sequence_length) * static_cast<double>(c.sequence_length + 1) / 2;
  return 6 * weights + 12 * C * keys;
}

}  // namespace scfa

#include "model/config.h"

#include <cmath>

#include "kernels/rotary.h"

namespace scfa {

namespace {

void validate_attention(const GptConfig& c) {
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

}  // namespace

GptConfig GptConfig::at_stage(int64_t stage) const {
  GptConfig config = *this;
  if (!schedule.empty()) config.attention = schedule.at(static_cast<size_t>(stage)).attention;
  return config;
}

int64_t GptConfig::first_step(int64_t stage, int64_t steps) const {
  if (stage == 0) return 0;
  return std::llround(schedule.at(static_cast<size_t>(stage)).from * static_cast<double>(steps));
}

int64_t GptConfig::stage_of(int64_t step, int64_t steps) const {
  int64_t stage = stages() - 1;
  while (first_step(stage, steps) > step) --stage;
  return stage;
}

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
  validate_attention(c);
  for (size_t i = 0; i < c.schedule.size(); ++i) {
    const double from = c.schedule[i].from, before = i == 0 ? 0 : c.schedule[i - 1].from;
    require(i == 0 ? from == 0 : from > before && from < 1, "attention.schedule[", i, "].from: must be ",
            i == 0 ? "0, where the run begins" : concat("more than ", before, " and less than 1"), ", not ", from);
    validate_attention(c.at_stage(static_cast<int64_t>(i)));
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
  for (const HeadPatterns& patterns : c.attention) text += (text.empty() ? "" : " | ") + describe(patterns, c.n_head);
  return c.documents ? text + ", documents apart" : text;
}

std::string describe_schedule(const GptConfig& c) {
  std::string text = describe_patterns(c.at_stage(0));
  for (int64_t i = 1; i < c.stages(); ++i)
    text += concat("; from ", 100 * c.schedule[static_cast<size_t>(i)].from, " % of the steps on ",
                   describe_patterns(c.at_stage(i)));
  return text;
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

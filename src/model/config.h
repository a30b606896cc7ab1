// The architecture of a GPT. Fields are named as in GPT-2 and nanoGPT.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"
#include "kernels/attention/patterns/pattern.h"

namespace scfa {

// The patterns of a part of a run, up to the next stage: those of the heads, the same for all layers or an entry per
// layer.
struct AttentionStage {
  double from = 0;  // the share of the steps that are before it
  std::vector<HeadPatterns> attention;
};

struct GptConfig {
  int64_t n_layer = 12;
  int64_t n_head = 12;
  int64_t n_kv_head = 0;
  int64_t n_embd = 768;
  int64_t sequence_length = 1024;
  int64_t vocab_size = 0;  // set from the data before a model is made
  int64_t vocab_padding = 128;
  bool bias = true;
  std::string gelu = "tanh";
  std::string positions = "learned";
  double rotary_theta = 10000;
  bool tied_embedding = true;
  bool shared_qk = false;
  bool documents = false;
  int64_t end_of_text = -1;  // with documents set from the data before a model is made
  double norm_eps = 1e-5;
  // The patterns of the heads, the same for all layers or an entry per layer; a key of its own in configs.
  std::vector<HeadPatterns> attention{HeadPatterns(1)};
  // All stages of a run whose patterns change; `attention` has the patterns of one of them. Empty: a single stage.
  std::vector<AttentionStage> schedule;

  int64_t head_dim() const { return n_embd / n_head; }
  float softmax_scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim())); }
  int64_t padded_vocab() const { return (vocab_size + vocab_padding - 1) / vocab_padding * vocab_padding; }
  bool rotary() const { return positions == "rotary"; }
  int64_t kv_heads() const { return n_kv_head > 0 ? n_kv_head : n_head; }
  // Heads in the output of c_attn: of queries, of keys unless they are shared, of values.
  int64_t qkv_heads() const { return n_head + (shared_qk ? 1 : 2) * kv_heads(); }
  int64_t qkv_width() const { return qkv_heads() * head_dim(); }
  const HeadPatterns& patterns(int64_t layer) const {
    return attention.size() == 1 ? attention[0] : attention.at(static_cast<size_t>(layer));
  }

  int64_t stages() const { return schedule.empty() ? 1 : static_cast<int64_t>(schedule.size()); }
  // With the patterns of a stage; the schedule stays.
  GptConfig at_stage(int64_t stage) const;
  // In a run of `steps` steps: the first step of a stage; the stage of a step, 0 <= step < steps; and the stage of the
  // last of the first `done` steps, or 0 if there is none.
  int64_t first_step(int64_t stage, int64_t steps) const;
  int64_t stage_of(int64_t step, int64_t steps) const;
  int64_t stage_after(int64_t done, int64_t steps) const { return done > 0 ? stage_of(done - 1, steps) : 0; }
};

template <class Config, class Visit>
void visit_fields_of_model(Config& c, Visit&& visit) {
  visit("n_layer", c.n_layer, "transformer blocks", between(1, 65535));
  visit("n_head", c.n_head, "attention heads per block", between(1, 65535));
  visit("n_kv_head", c.n_kv_head,
        "heads of keys and values, each read by n_head / n_kv_head query heads (grouped-query attention); a divisor of "
        "n_head; 0: n_head",
        between(0, 65535));
  visit("n_embd", c.n_embd, "width of the residual stream; a multiple of n_head", between(1, 65536));
  visit("sequence_length", c.sequence_length, "tokens per sequence", between(1, 1 << 20));
  visit("vocab_size", c.vocab_size, "entries of the vocabulary; 0 takes the tokenizer's", between(0, 1 << 24));
  visit("vocab_padding", c.vocab_padding,
        "embedding rows are rounded up to a multiple of this; padding is never predicted", between(1, 65536));
  visit("bias", c.bias, "biases in linear layers and layer norms", FieldRule{});
  visit("gelu", c.gelu, "GELU: exact (erf), or GPT-2's approximation (tanh)", one_of({"erf", "tanh"}));
  visit("positions", c.positions, "position encoding", one_of({"learned", "rotary"}));
  visit("rotary_theta", c.rotary_theta, "base of the rotary frequencies; long sequences need a larger one, such as 1e6",
        at_least(1));
  visit("tied_embedding", c.tied_embedding, "the output head is the token embedding", FieldRule{});
  visit("shared_qk", c.shared_qk, "keys are the queries, normalised per head", FieldRule{});
  visit("documents", c.documents,
        "in a sequence of several documents, no token sees those before its own document; positions count on from "
        "document to document",
        FieldRule{});
  visit("end_of_text", c.end_of_text, "documents: the token that ends one, and belongs to it; -1 takes the tokenizer's",
        between(-1, (1 << 24) - 1));
  visit("norm_eps", c.norm_eps, "epsilon of the layer norms", at_least(0));
}

// Checks what single fields cannot: throws Error naming the keys. vocab_size must be set, and with documents
// end_of_text.
void validate(const GptConfig& config);

// What the GPU implementation of the ops can take. Throws Error naming the key.
void validate_for_gpu(const GptConfig& config);

// The patterns, those of the layers one after the other where they differ, and whether documents are kept apart.
std::string describe_patterns(const GptConfig& config);
// Of all stages: "hash with 16 buckets; from 90 % of the steps on dense".
std::string describe_schedule(const GptConfig& config);

// GEMMs and attention of forward and backward, counting 2 per multiply-add, and in attention the pairs that patterns
// leave on average. Documents are not taken into account: what they leave depends on the text.
double model_flops_per_token(const GptConfig& config);

}  // namespace scfa

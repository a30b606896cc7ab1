// The parameters of a GPT: one table (name, shape, initial values, decay group, place in a flat buffer) that
// allocation, initialisation, the optimizer, checkpoints and counts all walk, and structs of views for the layers.
#pragma once
#include <string>
#include <vector>

#include "core/range.h"
#include "model/config.h"

namespace scfa {

struct BlockParams {
  Tensor ln_1_weight, ln_1_bias;            // (C)
  Tensor attn_weight, attn_bias;            // ((H + 2 H_kv) D, C): queries, keys unless shared, values
  Tensor attn_proj_weight, attn_proj_bias;  // (C, C)
  Tensor ln_2_weight, ln_2_bias;            // (C)
  Tensor fc_weight, fc_bias;                // (4C, C)
  Tensor mlp_proj_weight, mlp_proj_bias;    // (C, 4C)
};

// Views are empty where the config has no such parameter.
struct GptParams {
  Tensor wte;  // (padded vocab, C)
  Tensor wpe;  // (sequence_length, C)
  std::vector<BlockParams> blocks;
  Tensor ln_f_weight, ln_f_bias;
  Tensor lm_head;  // (padded vocab, C); empty where it is wte

  const Tensor& head() const { return lm_head ? lm_head : wte; }
};

enum class Init { kNormal, kResidualNormal, kOnes, kZeros };  // normal 0.02; normal 0.02 / sqrt(2 n_layer)
enum class DecayGroup { kMatrix, kEmbedding, kVector };

inline constexpr int64_t kParameterAlignment = 64;  // elements

struct ParameterEntry {
  std::string name;
  std::vector<int64_t> shape;
  Init init;
  DecayGroup group;
  int64_t offset;  // in elements, a multiple of kParameterAlignment; what lies between tensors stays zero
  int64_t size;
};

struct ParameterTable {
  std::vector<ParameterEntry> entries;
  // Which stretch of a flat buffer holds the embeddings, then each block, then the final norm and the head if it is not
  // the embedding: one behind the other, in the order in which forward uses them. Backward ends them in reverse.
  std::vector<Range> groups;
  int64_t length = 0;  // elements of a flat buffer
  int64_t count = 0;   // parameters

  explicit ParameterTable(const GptConfig& config);
  const ParameterEntry& at(const std::string& name) const;
};

// Views of a flat buffer laid out by the table: values, weights, gradients, moments.
GptParams view_parameters(const GptConfig& config, Tensor flat);

// Fills flat, on the host, with initial values, a function of (seed, name) alone.
void init_parameters(const ParameterTable& table, Tensor flat, int64_t n_layer, uint64_t seed);

}  // namespace scfa

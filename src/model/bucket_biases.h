// The biases of a model's buckets (kernels/attention/patterns/bucket_bias.h): learned, but not by gradients. They are
// saved with the parameters. One flat buffer of f32 holds all of them, as the parameters have one.
#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"

namespace scfa {

struct BucketBiasEntry {
  std::string name;            // h.LAYER.attn.bucket_bias. and which heads, rounds and buckets it is for
  std::vector<int64_t> shape;  // (1 or 2, rounds, heads, buckets): of queries, and of keys unless they are shared
  int64_t offset, size;        // in elements
};

struct BucketBiasTable {
  std::vector<BucketBiasEntry> entries;
  int64_t length = 0;  // elements of the flat buffer; 0: no pattern of the model learns biases

  explicit BucketBiasTable(const GptConfig& config);  // of all its stages; patterns alike share theirs
};

inline constexpr const char* kBucketBiasName =
    ".attn.bucket_bias.";  // in the names of all of them, and of no parameter

// Views of a flat buffer, for each pattern of a layer; empty for those that learn none.
std::vector<Tensor> view_bucket_biases(const BucketBiasTable& table, const GptConfig& config, int64_t layer,
                                       Tensor flat);

}  // namespace scfa

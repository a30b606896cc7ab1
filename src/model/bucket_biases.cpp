#include "model/bucket_biases.h"

namespace scfa {

namespace {

// visit(name, shape) for each pattern of a layer; shape is empty where it learns no biases.
template <class Visit>
void visit_layer(const GptConfig& c, int64_t layer, const Visit& visit) {
  int64_t first_head = 0;
  for (const AttentionPattern& p : for_heads(c.patterns(layer), c.n_head)) {
    if (learns_bucket_bias(p))
      visit(concat("h.", layer, kBucketBiasName, "heads_", first_head, "_to_", first_head + p.heads - 1, ".rounds_",
                   p.rounds, ".buckets_", p.buckets),
            std::vector<int64_t>{c.shared_qk ? 1 : 2, p.rounds, p.heads, p.buckets});
    else
      visit(std::string(), std::vector<int64_t>());
    first_head += p.heads;
  }
}

const BucketBiasEntry* find(const BucketBiasTable& table, const std::string& name) {
  for (const BucketBiasEntry& entry : table.entries)
    if (entry.name == name) return &entry;
  return nullptr;
}

}  // namespace

BucketBiasTable::BucketBiasTable(const GptConfig& c) {
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
    if (shape.empty() || find(*this, name) != nullptr) return;
    const int64_t size = shape[0] * shape[1] * shape[2] * shape[3];
    entries.push_back({name, shape, length, size});
    length += size;
  };
  for (int64_t stage = 0; stage < c.stages(); ++stage) {
    const GptConfig its = c.at_stage(stage);
    for (int64_t layer = 0; layer < c.n_layer; ++layer) visit_layer(its, layer, add);
  }
}

std::vector<Tensor> view_bucket_biases(const BucketBiasTable& table, const GptConfig& config, int64_t layer,
                                       Tensor flat) {
  std::vector<Tensor> views;
  visit_layer(config, layer, [&](const std::string& name, const std::vector<int64_t>& shape) {
    if (shape.empty()) {
      views.emplace_back();
      return;
    }
    const BucketBiasEntry* entry = find(table, name);
    require(entry != nullptr, "the parameters have no ", name, ", which the model's patterns learn");
    views.push_back(flat.slice(entry->offset, entry->size).reshape({shape[0], shape[1], shape[2], shape[3]}));
  });
  return views;
}

}  // namespace scfa

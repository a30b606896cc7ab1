#include "model/params.h"

#include <cmath>
#include <cstring>

#include "core/rng.h"

namespace scfa {

namespace {

// The one list of parameters, in the order of the flat buffer: visit(name, view, shape, init, group).
template <class Visit>
void visit_parameters(const GptConfig& c, GptParams& p, const Visit& visit) {
  using Shape = std::vector<int64_t>;
  const int64_t C = c.n_embd, V = c.padded_vocab();
  const auto matrix = [&](const std::string& name, Tensor& weight, Tensor& bias, int64_t out, int64_t in, Init init) {
    visit(name + ".weight", weight, Shape{out, in}, init, DecayGroup::kMatrix);
    if (c.bias) visit(name + ".bias", bias, Shape{out}, Init::kZeros, DecayGroup::kVector);
  };
  const auto norm = [&](const std::string& name, Tensor& weight, Tensor& bias) {
    visit(name + ".weight", weight, Shape{C}, Init::kOnes, DecayGroup::kVector);
    if (c.bias) visit(name + ".bias", bias, Shape{C}, Init::kZeros, DecayGroup::kVector);
  };
  visit("wte.weight", p.wte, Shape{V, C}, Init::kNormal, DecayGroup::kEmbedding);
  if (!c.rotary()) visit("wpe.weight", p.wpe, Shape{c.sequence_length, C}, Init::kNormal, DecayGroup::kEmbedding);
  p.blocks.resize(static_cast<size_t>(c.n_layer));
  for (size_t l = 0; l < p.blocks.size(); ++l) {
    BlockParams& b = p.blocks[l];
    const std::string at = concat("h.", l, ".");
    norm(at + "ln_1", b.ln_1_weight, b.ln_1_bias);
    matrix(at + "attn.c_attn", b.attn_weight, b.attn_bias, c.qkv_width(), C, Init::kNormal);
    matrix(at + "attn.c_proj", b.attn_proj_weight, b.attn_proj_bias, C, C, Init::kResidualNormal);
    norm(at + "ln_2", b.ln_2_weight, b.ln_2_bias);
    matrix(at + "mlp.c_fc", b.fc_weight, b.fc_bias, 4 * C, C, Init::kNormal);
    matrix(at + "mlp.c_proj", b.mlp_proj_weight, b.mlp_proj_bias, C, 4 * C, Init::kResidualNormal);
  }
  norm("ln_f", p.ln_f_weight, p.ln_f_bias);
  if (!c.tied_embedding) visit("lm_head.weight", p.lm_head, Shape{V, C}, Init::kNormal, DecayGroup::kMatrix);
}

uint64_t hash_name(const std::string& name) {  // FNV-1a
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

void fill_normal(float* x, int64_t size, float deviation, uint64_t key) {
#pragma omp parallel for
  for (int64_t i = 0; i < size; i += 2) {
    const auto high = static_cast<uint32_t>(i >> 32);
    const Random4 bits = random4(key, Purpose::kInit, high, 0, 0, 0, static_cast<uint32_t>(i));
    float a, b;
    normal2(bits.v[0], bits.v[1], a, b);
    x[i] = a * deviation;
    if (i + 1 < size) x[i + 1] = b * deviation;
  }
}

}  // namespace

ParameterTable::ParameterTable(const GptConfig& config) {
  GptParams views;
  visit_parameters(
      config, views,
      [&](const std::string& name, Tensor&, const std::vector<int64_t>& shape, Init init, DecayGroup group) {
        int64_t size = 1;
        for (const int64_t n : shape) size *= n;
        entries.push_back({name, shape, init, group, length, size});
        length += (size + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
        count += size;
      });
  // Embeddings come first and blocks are named h.N; what is behind the last block is the head's.
  std::vector<int64_t> limits{0};
  for (int64_t l = 0; l <= config.n_layer; ++l) {
    const std::string first = l < config.n_layer ? concat("h.", l, ".ln_1.weight") : "ln_f.weight";
    limits.push_back(at(first).offset);
  }
  limits.push_back(length);
  for (size_t i = 0; i + 1 < limits.size(); ++i) groups.push_back({limits[i], limits[i + 1]});
}

const ParameterEntry& ParameterTable::at(const std::string& name) const {
  for (const ParameterEntry& entry : entries)
    if (entry.name == name) return entry;
  fail("no parameter is named \"", name, "\"");
}

GptParams view_parameters(const GptConfig& config, Tensor flat) {
  const ParameterTable table(config);
  require_tensor(flat, "view_parameters", "flat", flat.dtype, {table.length});
  GptParams views;
  size_t next = 0;
  visit_parameters(config, views,
                   [&](const std::string&, Tensor& view, const std::vector<int64_t>& shape, Init, DecayGroup) {
                     const Tensor part = flat.slice(table.entries[next].offset, table.entries[next].size);
                     view = shape.size() == 1 ? part : part.reshape({shape[0], shape[1]});
                     ++next;
                   });
  return views;
}

void init_parameters(const ParameterTable& table, Tensor flat, int64_t n_layer, uint64_t seed) {
  float* data = flat.as<float>();
  std::memset(data, 0, static_cast<size_t>(flat.bytes()));
  for (const ParameterEntry& entry : table.entries) {
    float* x = data + entry.offset;
    const float residual = 0.02f / std::sqrt(2.0f * static_cast<float>(n_layer));
    switch (entry.init) {
      case Init::kNormal:
      case Init::kResidualNormal:
        fill_normal(x, entry.size, entry.init == Init::kNormal ? 0.02f : residual, seed ^ hash_name(entry.name));
        break;
      case Init::kOnes:
        for (int64_t i = 0; i < entry.size; ++i) x[i] = 1.0f;
        break;
      case Init::kZeros:
        break;
    }
  }
}

}  // namespace scfa

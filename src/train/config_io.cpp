#include "train/config_io.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <set>
#include <type_traits>

#include "core/nearest.h"
#include "data/input_file.h"
#include "data/json_file.h"
#include "train/config_value.h"

namespace scfa {

namespace {

using config_value::assign;
using config_value::join;
using config_value::json_of;
using config_value::parse_text;

constexpr size_t kMostLayers = 65535, kMostHeads = 65535;  // as model.n_layer and model.n_head have it

std::vector<std::string> known_keys() {
  Config config;
  std::vector<std::string> keys{"attention"};
  visit_fields(config, [&](const char* section, const char* key, auto&, const char*, const FieldRule&) {
    keys.push_back(join(section, key));
  });
  visit_fields_of_pattern(config.model.attention[0][0], [&](const char* key, auto&, const char*, const FieldRule&) {
    keys.push_back(join("attention", key));
  });
  return keys;
}

[[noreturn]] void unknown_key(const std::string& key, const std::string& where) {
  fail(where, ": is not a known key", did_you_mean(key, known_keys()));
}

// Sets the field named section.key by calling set(target, rule); false if there is none.
template <class Set>
bool set_field(Config& config, const std::string& name, const Set& set) {
  bool found = false;
  visit_fields(config, [&](const char* section, const char* key, auto& target, const char*, const FieldRule& rule) {
    if (join(section, key) != name) return;
    set(target, rule);
    found = true;
  });
  return found;
}

template <class Set>
bool set_pattern_field(AttentionPattern& pattern, const std::string& name, const Set& set) {
  bool found = false;
  visit_fields_of_pattern(pattern, [&](const char* key, auto& target, const char*, const FieldRule& rule) {
    if (name != key) return;
    set(target, rule);
    found = true;
  });
  return found;
}

// Calls work(pattern) for those of all stages, layers and heads.
template <class Model, class Work>
void for_each_pattern(Model& model, const Work& work) {
  const auto each = [&](auto& attention) {
    for (auto& patterns : attention)
      for (auto& pattern : patterns) work(pattern);
  };
  each(model.attention);
  for (auto& stage : model.schedule) each(stage.attention);
}

AttentionPattern read_pattern(const Json& json, const std::string& where) {
  require(json.is_object(), where, ": must be an object like {\"pattern\": \"hash\", \"buckets\": 16}, not ",
          shown(json));
  AttentionPattern pattern;
  for (const auto& [key, value] : json.items()) {
    const std::string at = where + "." + abbreviate(key);
    if (!set_pattern_field(pattern, key, [&, &value = value](auto& target, const FieldRule& rule) {
          assign(target, value, rule, at);
        }))
      unknown_key("attention." + key, at);
  }
  return pattern;
}

constexpr const char* kMixture = "mixture";

HeadPatterns read_heads(const Json& json, const std::string& where) {
  if (!json.is_object() || !json.contains(kMixture)) return {read_pattern(json, where)};
  const std::string at = concat(where, ".", kMixture);
  require(json.size() == 1, at, ": must be the only key of its object; other keys belong in its entries");
  const Json& entries = json[kMixture];
  require(entries.is_array() && !entries.empty() && entries.size() <= kMostHeads, at,
          ": must be a list with one object for each range of heads, not ", shown(entries));
  HeadPatterns patterns;
  for (const Json& entry : entries) patterns.push_back(read_pattern(entry, concat(at, "[", patterns.size(), "]")));
  return patterns;
}

Json json_of_heads(const HeadPatterns& patterns) {
  Json list = Json::array();
  for (const AttentionPattern& pattern : patterns) {
    Json entry;
    visit_fields_of_pattern(pattern, [&](const char* key, const auto& value, const char*, const FieldRule&) {
      entry[key] = json_of(value);
    });
    list.push_back(entry);
  }
  return list.size() == 1 ? list[0] : Json{{kMixture, list}};
}

std::vector<HeadPatterns> read_layers(const Json& json, const std::string& where) {
  if (!json.is_array()) return {read_heads(json, where)};
  require(!json.empty(), where, ": a list of patterns must have one entry per layer, not none");
  require(json.size() <= kMostLayers, where, ": a list of patterns must have one entry per layer, not ", json.size());
  std::vector<HeadPatterns> layers;
  for (const Json& entry : json) layers.push_back(read_heads(entry, concat(where, "[", layers.size(), "]")));
  return layers;
}

Json json_of_layers(const std::vector<HeadPatterns>& attention) {
  Json list = Json::array();
  for (const HeadPatterns& patterns : attention) list.push_back(json_of_heads(patterns));
  return list.size() == 1 ? list[0] : list;
}

constexpr const char *kSchedule = "schedule", *kFrom = "from", *kAttention = "attention";
constexpr size_t kMostStages = 1000;

AttentionStage read_stage(const Json& json, const std::string& where) {
  require(json.is_object() && json.size() == 2 && json.contains(kFrom) && json.contains(kAttention), where,
          ": must be an object of \"from\", a share of the steps, and \"attention\", not ", shown(json));
  AttentionStage stage;
  assign(stage.from, json[kFrom], between(0, 1), concat(where, ".", kFrom));
  stage.attention = read_layers(json[kAttention], concat(where, ".", kAttention));
  return stage;
}

void read_attention(Config& config, const Json& json, const std::string& where) {
  config.model.schedule.clear();
  if (!json.is_object() || !json.contains(kSchedule)) {
    config.model.attention = read_layers(json, where);
    return;
  }
  const std::string at = concat(where, ".", kSchedule);
  require(json.size() == 1, at, ": must be the only key of its object; other keys belong in its entries");
  const Json& entries = json[kSchedule];
  require(entries.is_array() && !entries.empty() && entries.size() <= kMostStages, at,
          ": must be a list of {\"from\": share of the steps, \"attention\": ...}, not ", shown(entries));
  for (const Json& entry : entries)
    config.model.schedule.push_back(read_stage(entry, concat(at, "[", config.model.schedule.size(), "]")));
  config.model.attention = config.model.schedule[0].attention;
}

}  // namespace

Config config_from_json(const Json& json, const std::string& origin) {
  Config config;
  const auto set = [&](const std::string& key, const Json& value) {
    const std::string where = origin + ": " + abbreviate(key);
    if (!set_field(config, key, [&](auto& target, const FieldRule& rule) { assign(target, value, rule, where); }))
      unknown_key(key, where);
  };
  std::set<std::string> sections;
  visit_fields(config, [&](const char* section, const char*, auto&, const char*, const FieldRule&) {
    if (*section) sections.insert(section);
  });
  for (const auto& [key, value] : json.items()) {
    require(!key.empty() && key.find('.') == std::string::npos, origin, ": \"", abbreviate(key),
            "\": is not a key of a file; sections are objects, as in {\"train\": {\"steps\": 5}}");
    if (key == "attention")
      read_attention(config, value, origin + ": attention");
    else if (value.is_object() && (!value.empty() || sections.contains(key)))
      for (const auto& [inner, inner_value] : value.items()) set(join(key, inner), inner_value);
    else
      set(key, value);
  }
  return config;
}

std::vector<std::string> unused_attention_keys(const Config& config) {
  const Json defaults = json_of_heads({AttentionPattern()});
  std::set<std::string> set, used;
  for_each_pattern(config.model, [&](const AttentionPattern& pattern) {
    const Json keys = json_of_heads({pattern});
    for (const auto& [key, value] : keys.items()) {
      if (value != defaults.at(key)) set.insert(key);
      if (uses_parameter(pattern, key)) used.insert(key);
    }
  });
  std::vector<std::string> unused;
  std::set_difference(set.begin(), set.end(), used.begin(), used.end(), std::back_inserter(unused));
  return unused;
}

double larger_rotary_theta(const Config& config) {
  const GptConfig& model = config.model;
  const auto dim = static_cast<double>(model.head_dim()), length = static_cast<double>(model.sequence_length);
  bool far = false;
  for_each_pattern(model, [&](const AttentionPattern& pattern) { far |= pattern.window == 0; });
  if (!model.rotary() || model.documents || dim <= 2 || !far) return 0;
  const double least = std::pow(length, dim / (dim - 2));  // at which the slowest pair turns by one radian
  return model.rotary_theta < least ? std::max(1e6, std::pow(10, std::ceil(std::log10(least)) + 1)) : 0;
}

Config read_config(const std::string& path) {
  Config config = config_from_json(parse_json(read_text_file(path, JsonLimits().bytes), path), path);
  if (config.name.empty()) config.name = std::filesystem::path(path).stem().string();
  return config;
}

void override_config(Config& config, const std::string& key, const std::string& text) {
  const std::string where = "--" + key;
  if (key == "attention") {
    read_attention(config, parse_json_value(text, where), where);
    return;
  }
  const auto set = [&](auto& target, const FieldRule& rule) {
    using T = std::remove_reference_t<decltype(target)>;
    assign(target, parse_text<T>(text), rule, where);
  };
  if (key.starts_with("attention.")) {
    for_each_pattern(config.model, [&](AttentionPattern& pattern) {
      if (!set_pattern_field(pattern, key.substr(10), set)) unknown_key(key, where);
    });
    return;
  }
  if (!set_field(config, key, set)) unknown_key(key, where);
}

Json to_json(const Config& config) {
  Json json;
  visit_fields(config, [&](const char* section, const char* key, const auto& value, const char*, const FieldRule&) {
    (*section ? json[section][key] : json[key]) = json_of(value);
  });
  if (config.model.schedule.empty()) {
    json[kAttention] = json_of_layers(config.model.attention);
    return json;
  }
  Json stages = Json::array();
  for (const AttentionStage& stage : config.model.schedule)
    stages.push_back({{kFrom, stage.from}, {kAttention, json_of_layers(stage.attention)}});
  json[kAttention] = {{kSchedule, stages}};
  return json;
}

std::vector<Difference> differences(const Config& a, const Config& b) {
  const Json left = to_json(a).flatten(), right = to_json(b).flatten();
  std::vector<Difference> found;
  const auto text = [](const Json& flat, const std::string& key) {
    return flat.contains(key) ? flat[key].dump() : std::string("absent");
  };
  const auto dotted = [](std::string key) {
    std::replace(key.begin(), key.end(), '/', '.');
    return key.substr(1);
  };
  for (const auto& [key, value] : left.items())
    if (text(right, key) != value.dump()) found.push_back({dotted(key), value.dump(), text(right, key)});
  for (const auto& [key, value] : right.items())
    if (!left.contains(key)) found.push_back({dotted(key), "absent", value.dump()});
  return found;
}

}  // namespace scfa

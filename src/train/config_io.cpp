#include "train/config_io.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>

#include "core/nearest.h"

namespace scfa {

namespace {

using Json = nlohmann::ordered_json;

// ---- one value ------------------------------------------------------------------------------------------------------

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, int64_t>) return "integer";
  if constexpr (std::is_same_v<T, double>) return "number";
  if constexpr (std::is_same_v<T, std::string>) return "string";
  return "true or false";
}

template <class T>
bool has_type(const Json& value) {
  if constexpr (std::is_same_v<T, int64_t>)  // one beyond 64 bits is unsigned, and would turn negative
    return value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if constexpr (std::is_same_v<T, double>) return value.is_number();
  if constexpr (std::is_same_v<T, std::string>) return value.is_string();
  return value.is_boolean();
}

std::string number(double value) {
  return std::floor(value) == value && std::fabs(value) < 1e15 ? std::to_string(static_cast<int64_t>(value))
                                                               : concat(value);
}

std::string describe(const FieldRule& rule) {
  if (!rule.choices.empty()) {
    std::string text = "one of ";
    for (size_t i = 0; i < rule.choices.size(); ++i) text += (i ? ", " : "") + rule.choices[i];
    return text;
  }
  if (std::isfinite(rule.max)) return "from " + number(rule.min) + " to " + number(rule.max);
  return "at least " + number(rule.min);
}

template <class T>
void assign(T& target, const Json& value, const FieldRule& rule, const std::string& where) {
  if constexpr (std::is_same_v<T, std::optional<bool>>) {
    if (value.is_null()) {
      target.reset();
      return;
    }
  }
  require(has_type<T>(value), where, ": must be ", std::is_same_v<T, int64_t> ? "an " : "", type_name<T>(), ", not ",
          value.dump());
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    const auto given = value.get<double>();
    require(given >= rule.min && given <= rule.max, where, ": must be ", describe(rule), ", not ", value.dump());
  }
  if constexpr (std::is_same_v<T, std::string>) {
    const auto text = value.get<std::string>();
    require(rule.choices.empty() || std::find(rule.choices.begin(), rule.choices.end(), text) != rule.choices.end(),
            where, ": must be ", describe(rule), ", not \"", text, "\"", did_you_mean(text, rule.choices));
  }
  if constexpr (std::is_same_v<T, std::optional<bool>>)
    target = value.get<bool>();
  else
    target = value.get<T>();
}

template <class T>
Json json_of(const T& value) {
  return value;
}
Json json_of(const std::optional<bool>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// A value of the type a field wants from command-line text.
template <class T>
Json parse_text(const std::string& text) {
  if constexpr (std::is_same_v<T, std::string>) return text;
  const Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;  // text that is no JSON fails the type check, which quotes it
}

// ---- the whole config -----------------------------------------------------------------------------------------------

std::string join(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

std::vector<std::string> known_keys() {
  Config config;
  std::vector<std::string> keys{"attention"};
  visit_fields(config, [&](const char* section, const char* key, auto&, const char*, const FieldRule&) {
    keys.push_back(join(section, key));
  });
  visit_fields_of_pattern(config.model.attention[0], [&](const char* key, auto&, const char*, const FieldRule&) {
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

AttentionPattern read_pattern(const Json& json, const std::string& where) {
  require(json.is_object(), where, ": must be an object like {\"pattern\": \"hash\", \"buckets\": 16}, not ",
          json.dump());
  AttentionPattern pattern;
  for (const auto& [key, value] : json.items()) {
    const std::string at = where + "." + key;
    if (!set_pattern_field(pattern, key, [&, &value = value](auto& target, const FieldRule& rule) {
          assign(target, value, rule, at);
        }))
      unknown_key("attention." + key, at);
  }
  return pattern;
}

void read_attention(Config& config, const Json& json, const std::string& where) {
  config.model.attention.clear();
  if (!json.is_array()) {
    config.model.attention.push_back(read_pattern(json, where));
    return;
  }
  require(!json.empty(), where, ": a list of patterns must have one entry a layer, not none");
  for (const Json& entry : json)
    config.model.attention.push_back(read_pattern(entry, concat(where, "[", config.model.attention.size(), "]")));
}

// Parses text, refusing a key that an object has twice: the second would silently win.
Json parse_json(const std::string& text, const std::string& origin) {
  std::vector<std::set<std::string>> open;
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second && twice.empty())
      twice = parsed.get<std::string>();
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, watch, true, true);
  } catch (const Json::parse_error& error) {
    const std::string what = error.what();  // "[json.exception...] parse error at line 3, column 5: ..."
    fail(origin, ": ", what.substr(what.find("] ") == std::string::npos ? 0 : what.find("] ") + 2));
  }
  require(twice.empty(), origin, ": key \"", twice, "\" is there twice");
  require(json.is_object(), origin, ": must hold a JSON object");
  return json;
}

}  // namespace

Config config_from_json(const Json& json, const std::string& origin) {
  Config config;
  const auto set = [&](const std::string& key, const Json& value) {
    const std::string where = origin + ": " + key;
    if (!set_field(config, key, [&](auto& target, const FieldRule& rule) { assign(target, value, rule, where); }))
      unknown_key(key, where);
  };
  for (const auto& [key, value] : json.items()) {
    if (key == "attention")
      read_attention(config, value, origin + ": attention");
    else if (value.is_object())
      for (const auto& [inner, inner_value] : value.items()) set(join(key, inner), inner_value);
    else
      set(key, value);
  }
  return config;
}

Config read_config(const std::string& path) {
  std::ifstream file(path);
  require(file.good(), path, ": cannot be read; configs/ holds examples");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Config config = config_from_json(parse_json(text, path), path);
  if (config.name.empty()) config.name = std::filesystem::path(path).stem().string();
  return config;
}

void override_config(Config& config, const std::string& key, const std::string& text) {
  const std::string where = "--" + key;
  if (key == "attention") {
    const Json json = Json::parse(text, nullptr, false);
    require(!json.is_discarded(), where, ": must be JSON, not ", text);
    read_attention(config, json, where);
    return;
  }
  const auto set = [&](auto& target, const FieldRule& rule) {
    using T = std::remove_reference_t<decltype(target)>;
    assign(target, parse_text<T>(text), rule, where);
  };
  if (key.starts_with("attention.")) {
    for (AttentionPattern& pattern : config.model.attention)
      if (!set_pattern_field(pattern, key.substr(10), set)) unknown_key(key, where);
    return;
  }
  if (!set_field(config, key, set)) unknown_key(key, where);
}

Json to_json(const Config& config) {
  Json json;
  visit_fields(config, [&](const char* section, const char* key, const auto& value, const char*, const FieldRule&) {
    (*section ? json[section][key] : json[key]) = json_of(value);
  });
  Json list = Json::array();
  for (const AttentionPattern& pattern : config.model.attention) {
    Json entry;
    visit_fields_of_pattern(pattern, [&](const char* key, const auto& value, const char*, const FieldRule&) {
      entry[key] = json_of(value);
    });
    list.push_back(entry);
  }
  json["attention"] = list.size() == 1 ? list[0] : list;
  return json;
}

std::vector<FieldDoc> config_docs() {
  const Config config;
  std::vector<FieldDoc> docs;
  const auto add = [&](const std::string& key, const auto& value, const char* meaning, const FieldRule& rule) {
    using T = std::remove_cvref_t<decltype(value)>;
    std::string text = meaning;
    if (!rule.choices.empty() || std::isfinite(rule.min)) text += " (" + describe(rule) + ")";
    docs.push_back({key, type_name<T>(), json_of(value).dump(), text});
  };
  visit_fields(config, [&](const char* section, const char* key, const auto& value, const char* meaning,
                           const FieldRule& rule) { add(join(section, key), value, meaning, rule); });
  visit_fields_of_pattern(config.model.attention[0],
                          [&](const char* key, const auto& value, const char* meaning, const FieldRule& rule) {
                            add(join("attention", key), value, meaning, rule);
                          });
  return docs;
}

std::string config_markdown() {
  std::string text =
      "# Configuration\n\n"
      "A config is a JSON object (comments are allowed) with the sections below; a key left out has its default. "
      "Every\n"
      "key can be given on the command line, where it wins over the file: `./train --config configs/hash_8k.json\n"
      "--train.steps 100 --attention.buckets 32`. `attention` is one object for all layers or a list with one object "
      "a\n"
      "layer; on the command line `--attention.KEY` changes every layer and `--attention JSON` replaces them.\n\n"
      "This page is generated: `./train --print-config-docs`.\n";
  std::string section = "?";
  for (const FieldDoc& doc : config_docs()) {
    const size_t dot = doc.key.find('.');
    const std::string its = dot == std::string::npos ? "" : doc.key.substr(0, dot);
    if (its != section) {
      section = its;
      text += "\n## " + (section.empty() ? std::string("Run") : "`" + section + "`") +
              "\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
    }
    text += "| `" + doc.key + "` | " + doc.type + " | `" + doc.default_text + "` | " + doc.meaning + " |\n";
  }
  return text;
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

// One value of a config: its type, its rule, and what it is in JSON. For config_io.cpp and config_docs.cpp only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "core/fields.h"
#include "core/nearest.h"
#include "data/json_file.h"

namespace scfa::config_value {

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

inline std::string number(double value) {
  return std::floor(value) == value && std::fabs(value) < 1e15 ? std::to_string(static_cast<int64_t>(value))
                                                               : concat(value);
}

inline std::string describe(const FieldRule& rule) {
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
          shown(value));
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    const auto given = value.get<double>();
    require(given >= rule.min && given <= rule.max, where, ": must be ", describe(rule), ", not ", shown(value));
  }
  if constexpr (std::is_same_v<T, std::string>) {
    const auto text = value.get<std::string>();
    require(rule.choices.empty() || std::find(rule.choices.begin(), rule.choices.end(), text) != rule.choices.end(),
            where, ": must be ", describe(rule), ", not ", shown(value), did_you_mean(text, rule.choices));
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
inline Json json_of(const std::optional<bool>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// A value of the type a field wants from command-line text.
template <class T>
Json parse_text(const std::string& text) {
  if constexpr (std::is_same_v<T, std::string>) return text;
  try {
    return parse_json_value(text, "");
  } catch (const Error&) {
    return text;  // which fails the type check, and is quoted there
  }
}

// "section.key".
inline std::string join(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

}  // namespace scfa::config_value

// What a setting may be. Config structs describe themselves once, in a visit_fields(config, visit) that calls
// visit(name, value, meaning, rule) for each of their fields; reading JSON, command-line overrides, checks, the header
// of a run and the documentation all come from that one declaration.
#pragma once
#include <limits>
#include <string>
#include <vector>

namespace scfa {

struct FieldRule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices;  // for strings; empty allows any
};

inline FieldRule at_least(double min) {
  return {.min = min, .choices = {}};
}
inline FieldRule between(double min, double max) {
  return {.min = min, .max = max, .choices = {}};
}
inline FieldRule one_of(std::vector<std::string> choices) {
  return {.choices = std::move(choices)};
}

}  // namespace scfa

#include "core/command_line.h"

#include <charconv>
#include <cmath>
#include <cxxopts.hpp>
#include <ostream>

#include "core/error.h"
#include "core/nearest.h"
#include "core/version.h"

namespace scfa {

namespace {

// The whole text as a number; false if it is none.
template <class Number>
bool read_number(const std::string& text, Number& value) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && stop == text.data() + text.size() && !text.empty();
}

std::string range_of(int64_t min, int64_t max) {
  if (min == std::numeric_limits<int64_t>::min())
    return max == std::numeric_limits<int64_t>::max() ? "a whole number" : concat("a whole number, at most ", max);
  if (max == std::numeric_limits<int64_t>::max()) return concat("a whole number of at least ", min);
  return concat("a whole number from ", min, " to ", max);
}

int64_t integer_of(const std::string& name, const std::string& text, int64_t min, int64_t max) {
  int64_t value = 0;
  require(read_number(text, value) && value >= min && value <= max, "--", name, ": must be ", range_of(min, max),
          ", not \"", abbreviate(text), "\"");
  return value;
}

double number_of(const std::string& name, const std::string& text, double min, double max) {
  double value = 0;
  const bool fits = read_number(text, value) && std::isfinite(value) && value >= min && value <= max;
  std::string wanted = "a number";
  if (std::isfinite(min))
    wanted += std::isfinite(max) ? concat(" from ", min, " to ", max) : concat(" of at least ", min);
  else if (std::isfinite(max))
    wanted += concat(", at most ", max);
  require(fits, "--", name, ": must be ", wanted, ", not \"", abbreviate(text), "\"");
  return value;
}

}  // namespace

CommandLine::CommandLine(std::string program, std::string usage)
    : program_(std::move(program)), usage_(std::move(usage)) {}

void CommandLine::add(Option option) {
  options_.push_back(std::move(option));
}
void CommandLine::add_flag(const std::string& name, const std::string& meaning) {
  add({name, meaning, "", "false", Kind::kFlag, false});
}
void CommandLine::add_option(const std::string& name, const std::string& meaning, const std::string& placeholder,
                             const std::string& otherwise) {
  add({name, meaning, placeholder, otherwise, Kind::kOption, false});
}
void CommandLine::add_list(const std::string& name, const std::string& meaning, const std::string& placeholder) {
  add({name, meaning, placeholder, "", Kind::kList, false});
}
void CommandLine::add_optional_value(const std::string& name, const std::string& meaning,
                                     const std::string& placeholder) {
  add({name, meaning, placeholder, "", Kind::kOptionalValue, false});
}
void CommandLine::add_hidden_option(const std::string& name) {
  add({name, "", "", "", Kind::kOption, true});
}

const CommandLine::Option* CommandLine::find(const std::string& name) const {
  for (const Option& candidate : options_)
    if (candidate.name == name) return &candidate;
  return nullptr;
}

const CommandLine::Option& CommandLine::option(const std::string& name) const {
  const Option* found = find(name);
  require(found != nullptr, program_, ": has no option --", name);
  return *found;
}

void CommandLine::refuse(const std::string& word) const {
  std::vector<std::string> names{"help", "version"};
  for (const Option& known : options_) names.push_back(known.name);
  const std::string start = word.substr(std::min(word.size(), word.find_first_not_of('-')));
  fail(abbreviate(word), ": is not an option", did_you_mean(start.substr(0, start.find('=')), names),
       "; --help lists all");
}

bool CommandLine::parse(int argc, const char* const* argv, std::ostream& out) {
  const std::vector<std::string> given(argv + 1, argv + argc);
  for (size_t i = 0; i < given.size(); ++i) {
    const std::string& word = given[i];
    const bool is_last = i + 1 == given.size();
    if (word == "-h" || word == "--help") {
      out << help();
      return false;
    }
    if (word == "--version") {
      out << program_ << " " << version() << " (" << git_commit() << ")\n";
      return false;
    }
    if (word == "-" || !word.starts_with('-')) {
      if (!words_allowed_) {
        std::string hint;  // which option a path may be meant for
        for (const char* name : {"config", "checkpoint"})
          if (hint.empty() && find(name) != nullptr && word.find('/') != std::string::npos)
            hint = concat("; did you mean --", name, ' ', abbreviate(word), '?');
        fail("\"", abbreviate(word), "\": belongs to no option", hint.empty() ? "; --help lists all" : hint);
      }
      words_.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    const Option* known = word.starts_with("--") ? find(word.substr(2, equals - 2)) : nullptr;
    if (known == nullptr) refuse(word);
    const bool has_value = equals != std::string::npos;
    const std::string value = has_value ? word.substr(equals + 1) : "";
    if (known->kind == Kind::kFlag) {
      std::string on = has_value ? value : "true";
      if (!has_value && !is_last && (given[i + 1] == "true" || given[i + 1] == "false")) on = given[++i];
      require(on == "true" || on == "false", "--", known->name, ": must be true or false, not \"", abbreviate(on),
              "\"");
      values_.emplace_back(known->name, on);
    } else if (has_value) {
      values_.emplace_back(known->name, value);
    } else if (known->kind == Kind::kList) {
      const size_t before = i;
      while (i + 1 < given.size() && (given[i + 1] == "-" || !given[i + 1].starts_with('-')))
        values_.emplace_back(known->name, given[++i]);
      require(i > before, "--", known->name, ": names nothing; give ", known->placeholder);
    } else if (known->kind == Kind::kOptionalValue && (is_last || given[i + 1].starts_with('-'))) {
      values_.emplace_back(known->name, "true");
    } else {
      require(!is_last && !given[i + 1].starts_with("--"), "--", known->name, ": needs a value",
              is_last ? "" : "; one that starts with -- is written --" + known->name + "=VALUE");
      values_.emplace_back(known->name, given[++i]);
    }
  }
  return true;
}

std::string CommandLine::help() const {
  cxxopts::Options shown(program_, usage_);
  shown.custom_help("").positional_help("");
  cxxopts::OptionAdder adder = shown.add_options();
  for (const Option& known : options_) {
    if (known.hidden) continue;
    if (known.kind == Kind::kFlag) {
      adder(known.name, known.meaning);
      continue;
    }
    const auto value = cxxopts::value<std::string>();
    if (!known.otherwise.empty()) value->default_value(known.otherwise);
    adder(known.name, known.meaning, value, known.placeholder);
  }
  adder("version", "what this was built from")("h,help", "this text");
  // cxxopts puts a usage line of its own between the two.
  const std::string text = shown.help(), usage = "\nUsage:\n";
  const size_t own = text.find(usage), list = own == std::string::npos ? own : text.find("\n\n", own + usage.size());
  return (list == std::string::npos ? text : text.substr(0, own) + text.substr(list + 1)) + footer_;
}

bool CommandLine::given(const std::string& name) const {
  option(name);
  for (const auto& [known, value] : values_)
    if (known == name) return true;
  return false;
}

std::string CommandLine::text(const std::string& name) const {
  std::string last = option(name).otherwise;
  for (const auto& [known, value] : values_)
    if (known == name) last = value;
  return last;
}

bool CommandLine::flag(const std::string& name) const {
  return text(name) == "true";
}

int64_t CommandLine::integer(const std::string& name, int64_t min, int64_t max) const {
  return integer_of(name, text(name), min, max);
}

double CommandLine::number(const std::string& name, double min, double max) const {
  return number_of(name, text(name), min, max);
}

std::vector<std::string> CommandLine::list(const std::string& name) const {
  option(name);
  std::vector<std::string> all;
  for (const auto& [known, value] : values_)
    if (known == name) all.push_back(value);
  return all;
}

std::vector<std::string> CommandLine::comma_list(const std::string& name) const {
  std::vector<std::string> words;
  const std::string all = text(name);
  if (all.empty() && !given(name)) return words;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = all.find(',', begin);
    words.push_back(all.substr(begin, end - begin));
  }
  return words;
}

std::vector<int64_t> CommandLine::integers(const std::string& name, int64_t min, int64_t max) const {
  std::vector<int64_t> numbers;
  for (const std::string& word : comma_list(name)) numbers.push_back(integer_of(name, word, min, max));
  return numbers;
}

std::vector<double> CommandLine::numbers(const std::string& name, double min, double max) const {
  std::vector<double> numbers;
  for (const std::string& word : comma_list(name)) numbers.push_back(number_of(name, word, min, max));
  return numbers;
}

}  // namespace scfa

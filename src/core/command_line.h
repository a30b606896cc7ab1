// The command line of a program: every word of it is understood or refused. Options are "--name value" or
// "--name=value"; flags are "--name", "--name=true" or "--name=false"; -h and --help, and --version, are always there.
#pragma once
#include <cstdint>
#include <iosfwd>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace scfa {

class CommandLine {
 public:
  // program: its name, in errors. usage: what --help prints above the list of options.
  CommandLine(std::string program, std::string usage);

  void add_flag(const std::string& name, const std::string& meaning);
  // Takes a value. A value that starts with "--" must be written as --name=value.
  void add_option(const std::string& name, const std::string& meaning, const std::string& placeholder,
                  const std::string& otherwise = "");
  // Takes all words up to the next option, and may be given several times.
  void add_list(const std::string& name, const std::string& meaning, const std::string& placeholder);
  // Takes a value or none: "--name" alone gives it the text "true".
  void add_optional_value(const std::string& name, const std::string& meaning, const std::string& placeholder);
  // As add_option, but not in the list of options that --help prints.
  void add_hidden_option(const std::string& name);
  // Printed by --help below the list of options.
  void set_footer(const std::string& text) { footer_ = text; }
  // Words that belong to no option are kept in words(); without this they are errors.
  void allow_words() { words_allowed_ = true; }

  // False if help or the version was asked for, which is then printed to `out`. Throws Error naming the word that is
  // not understood, and the nearest option.
  bool parse(int argc, const char* const* argv, std::ostream& out);
  std::string help() const;

  bool given(const std::string& name) const;
  bool flag(const std::string& name) const;
  // The last value given, else the default. integer and number throw Error naming the option and what would be right.
  std::string text(const std::string& name) const;
  int64_t integer(const std::string& name, int64_t min = std::numeric_limits<int64_t>::min(),
                  int64_t max = std::numeric_limits<int64_t>::max()) const;
  double number(const std::string& name, double min = -std::numeric_limits<double>::infinity(),
                double max = std::numeric_limits<double>::infinity()) const;
  std::vector<std::string> list(const std::string& name) const;
  // Separated by commas; none where the option is not given and has no default.
  std::vector<int64_t> integers(const std::string& name, int64_t min, int64_t max) const;
  std::vector<double> numbers(const std::string& name, double min, double max) const;
  std::vector<std::string> comma_list(const std::string& name) const;

  const std::vector<std::string>& words() const { return words_; }
  // (name, value) in the order given.
  const std::vector<std::pair<std::string, std::string>>& values() const { return values_; }

 private:
  enum class Kind : uint8_t { kFlag, kOption, kList, kOptionalValue };
  struct Option {
    std::string name, meaning, placeholder, otherwise;
    Kind kind;
    bool hidden;
  };
  void add(Option option);
  const Option& option(const std::string& name) const;
  const Option* find(const std::string& name) const;
  [[noreturn]] void refuse(const std::string& word) const;

  std::string program_, usage_, footer_;
  std::vector<Option> options_;
  bool words_allowed_ = false;
  std::vector<std::pair<std::string, std::string>> values_;
  std::vector<std::string> words_;
};

}  // namespace scfa

#include "core/command_line.h"

#include <gtest/gtest.h>

#include <sstream>

#include "support/expect_error.h"

namespace scfa {
namespace {

using test::expect_error;
using Words = std::vector<std::string>;

CommandLine example() {
  CommandLine line("tool", "Does something.\n\nUsage: tool [option ...]\n");
  line.add_flag("overwrite", "replaces what is there");
  line.add_option("name", "of the run", "NAME", "default");
  line.add_option("steps", "how many", "N", "10");
  line.add_option("rate", "how fast", "X", "0.5");
  line.add_option("lengths", "several", "N,N,...");
  line.add_list("input", "files", "FILE ...");
  line.add_optional_value("resume", "goes on", "RUN");
  line.add_hidden_option("secret");
  return line;
}

bool parse(CommandLine& line, const Words& words, std::string* printed = nullptr) {
  std::vector<const char*> argv{"tool"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out;
  const bool going_on = line.parse(static_cast<int>(argv.size()), argv.data(), out);
  if (printed != nullptr) *printed = out.str();
  return going_on;
}

CommandLine parsed(const Words& words) {
  CommandLine line = example();
  EXPECT_TRUE(parse(line, words));
  return line;
}

void refused(const Words& words, std::initializer_list<const char*> parts) {
  CommandLine line = example();
  expect_error([&] { parse(line, words); }, parts);
}

TEST(CommandLine, EveryWordIsUnderstoodOrRefused) {
  refused({"--nmae", "x"}, {"--nmae", "is not an option", "did you mean \"name\""});
  refused({"--nmae=x"}, {"--nmae=x", "did you mean \"name\""});
  refused({"-name", "x"}, {"-name", "did you mean \"name\""});
  refused({"-steps=3"}, {"-steps=3", "did you mean \"steps\""});
  refused({"---name", "x"}, {"---name", "is not an option"});
  for (const char* word : {"-n", "-x3", "--", "--=", "--=3", "--help=yes", "--version=1", "-help", "-version", "-H"})
    refused({word}, {word, "is not an option"});
  refused({"stray"}, {"\"stray\"", "belongs to no option"});
  refused({""}, {"\"\"", "belongs to no option"});
  refused({"-"}, {"\"-\"", "belongs to no option"});
  refused({"--name", "a", "b"}, {"\"b\"", "belongs to no option"});
  refused({std::string(100'000, 'x')}, {"(100000 bytes)"});
  refused({"--" + std::string(100'000, 'x')}, {"(100002 bytes)"});
}

TEST(CommandLine, FlagsTakeTrueFalseOrNothing) {
  EXPECT_FALSE(parsed({}).flag("overwrite"));
  EXPECT_FALSE(parsed({}).given("overwrite"));
  for (const Words& words : std::vector<Words>{{"--overwrite"}, {"--overwrite=true"}, {"--overwrite", "true"}})
    EXPECT_TRUE(parsed(words).flag("overwrite")) << words.back();
  for (const Words& words : std::vector<Words>{{"--overwrite=false"}, {"--overwrite", "false"}}) {
    const CommandLine line = parsed(words);
    EXPECT_FALSE(line.flag("overwrite")) << words.back();
    EXPECT_TRUE(line.given("overwrite")) << words.back();
  }
  EXPECT_FALSE(parsed({"--overwrite", "--overwrite=false"}).flag("overwrite"));
  for (const char* value : {"yes", "1", "0", "", "True", "FALSE", "false "})
    refused({std::string("--overwrite=") + value}, {"--overwrite", "must be true or false"});
  refused({"--overwrite", "yes"}, {"\"yes\"", "belongs to no option"});
}

TEST(CommandLine, OptionsTakeTheirValueEitherWay) {
  EXPECT_EQ(parsed({}).text("name"), "default");
  EXPECT_EQ(parsed({"--name", "x"}).text("name"), "x");
  EXPECT_EQ(parsed({"--name=x"}).text("name"), "x");
  EXPECT_EQ(parsed({"--name=a=b"}).text("name"), "a=b");
  EXPECT_EQ(parsed({"--name="}).text("name"), "");
  EXPECT_EQ(parsed({"--name", ""}).text("name"), "");
  EXPECT_EQ(parsed({"--name=--odd"}).text("name"), "--odd");
  EXPECT_EQ(parsed({"--name", "-odd"}).text("name"), "-odd");
  EXPECT_EQ(parsed({"--name", "-"}).text("name"), "-");
  EXPECT_EQ(parsed({"--name", "a", "--name", "b"}).text("name"), "b");
  EXPECT_EQ(parsed({"--secret", "x"}).text("secret"), "x");
  refused({"--name"}, {"--name", "needs a value"});
  refused({"--name", "--steps", "3"}, {"--name", "needs a value", "--name=VALUE"});
  refused({"--name", "--"}, {"--name", "needs a value"});
}

TEST(CommandLine, ListsAndOptionalValues) {
  EXPECT_EQ(parsed({"--input", "a", "b", "--name", "x", "--input", "c"}).list("input"), (Words{"a", "b", "c"}));
  EXPECT_EQ(parsed({"--input=a", "--input=-b"}).list("input"), (Words{"a", "-b"}));
  EXPECT_EQ(parsed({"--input", "-"}).list("input"), Words{"-"});
  EXPECT_TRUE(parsed({}).list("input").empty());
  refused({"--input"}, {"--input", "names nothing", "FILE ..."});
  refused({"--input", "--name", "x"}, {"--input", "names nothing"});
  refused({"--input", "a", "-b"}, {"-b", "is not an option"});
  EXPECT_EQ(parsed({"--resume"}).text("resume"), "true");
  EXPECT_EQ(parsed({"--resume", "--name", "x"}).text("resume"), "true");
  EXPECT_EQ(parsed({"--resume", "runs/x"}).text("resume"), "runs/x");
  EXPECT_EQ(parsed({"--resume=runs/x"}).text("resume"), "runs/x");
  EXPECT_FALSE(parsed({}).given("resume"));
}

TEST(CommandLine, WordsOnlyWhereTheyAreAllowed) {
  CommandLine line = example();
  line.allow_words();
  EXPECT_TRUE(parse(line, {"op", "--steps", "3", "a", "-", "--overwrite", "b"}));
  EXPECT_EQ(line.words(), (Words{"op", "a", "-", "b"}));
  EXPECT_EQ(line.values(), (std::vector<std::pair<std::string, std::string>>{{"steps", "3"}, {"overwrite", "true"}}));
  CommandLine again = example();
  again.allow_words();
  expect_error([&] { parse(again, {"op", "-x"}); }, {"-x", "is not an option"});
}

TEST(CommandLine, NumbersNameTheOptionAndWhatWouldBeRight) {
  EXPECT_EQ(parsed({}).integer("steps"), 10);
  EXPECT_EQ(parsed({"--steps", "-3"}).integer("steps"), -3);
  EXPECT_EQ(parsed({"--steps=9223372036854775807"}).integer("steps"), INT64_MAX);
  for (const char* text : {"", " 3", "3 ", "3.0", "1e3", "0x10", "+3", "three", "9223372036854775808", "3\n"}) {
    const CommandLine line = parsed({std::string("--steps=") + text});
    expect_error([&] { line.integer("steps", 1); }, {"--steps", "a whole number of at least 1"});
  }
  const CommandLine steps = parsed({"--steps", "0"});
  expect_error([&] { steps.integer("steps", 1, 9); }, {"--steps", "from 1 to 9", "\"0\""});
  expect_error([&] { steps.integer("steps", INT64_MIN, -1); }, {"--steps", "at most -1"});
  EXPECT_EQ(parsed({"--rate", "-1e-3"}).number("rate"), -1e-3);
  for (const char* text : {"", "nan", "inf", "-inf", "1e999", "0.5x", "1,5", ".", "--"}) {
    const CommandLine line = parsed({std::string("--rate=") + text});
    expect_error([&] { line.number("rate", 0, 1); }, {"--rate", "a number from 0 to 1"});
  }
  const CommandLine rate = parsed({"--rate", "2"});
  expect_error([&] { rate.number("rate", 3); }, {"--rate", "at least 3", "\"2\""});
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  expect_error([&] { rate.number("rate", kNone, 1); }, {"--rate", "at most 1", "\"2\""});
  const CommandLine huge = parsed({"--steps", std::string(100'000, '7')});
  expect_error([&] { huge.integer("steps"); }, {"--steps", "(100000 bytes)"});
}

TEST(CommandLine, NumbersSeparatedByCommas) {
  EXPECT_EQ(parsed({"--lengths", "8,16,32"}).integers("lengths", 1, 99), (std::vector<int64_t>{8, 16, 32}));
  EXPECT_TRUE(parsed({}).integers("lengths", 1, 99).empty());
  for (const char* text : {"", ",", "8,", ",8", "8,,16", "8;16", "8, 16", "0", "8,100"}) {
    const CommandLine line = parsed({std::string("--lengths=") + text});
    expect_error([&] { line.integers("lengths", 1, 99); }, {"--lengths", "from 1 to 99"});
  }
}

TEST(CommandLine, SharesSeparatedByCommas) {
  EXPECT_EQ(parsed({"--lengths", "0.5,1e-1"}).numbers("lengths", 0, 1), (std::vector<double>{0.5, 0.1}));
  EXPECT_TRUE(parsed({}).numbers("lengths", 0, 1).empty());
  for (const char* text : {"", "0.5,", "0.5;1", "nan", "1.1", "-0.1"}) {
    const CommandLine line = parsed({std::string("--lengths=") + text});
    expect_error([&] { line.numbers("lengths", 0, 1); }, {"--lengths", "from 0 to 1"});
  }
}

TEST(CommandLine, HelpAndVersionAreAlwaysThere) {
  std::string printed;
  for (const Words& words :
       std::vector<Words>{{"-h"}, {"--help"}, {"--steps", "3", "--help"}, {"--input", "a", "-h"}}) {
    CommandLine line = example();
    EXPECT_FALSE(parse(line, words, &printed));
    EXPECT_EQ(printed, line.help());
  }
  for (const char* part : {"Usage: tool [option ...]", "--overwrite", "--name NAME", "(default: 10)", "FILE ...",
                           "--resume RUN", "--version", "--help"})
    EXPECT_NE(printed.find(part), std::string::npos) << part << " is not in\n" << printed;
  EXPECT_EQ(printed.find("secret"), std::string::npos) << printed;
  EXPECT_EQ(printed.find("Usage:"), printed.rfind("Usage:")) << printed;
  std::istringstream lines(printed);
  for (std::string text; std::getline(lines, text);) EXPECT_LE(text.size(), 80u) << text;
  CommandLine line = example();
  EXPECT_FALSE(parse(line, {"--version"}, &printed));
  EXPECT_EQ(printed.substr(0, 5), "tool ");
  EXPECT_EQ(printed.back(), '\n');
}

TEST(CommandLine, AskingForWhatWasNotDeclaredIsAnError) {
  const CommandLine line = parsed({});
  EXPECT_THROW(line.text("nothing"), Error);
  EXPECT_THROW(line.given("nothing"), Error);
  EXPECT_THROW(line.list("nothing"), Error);
}

}  // namespace
}  // namespace scfa

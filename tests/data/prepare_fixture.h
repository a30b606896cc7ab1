// The fixture of the tests of prepare: a folder for inputs and sets, and what the tokens must be.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "data/data_support.h"
#include "data/prepare.h"
#include "data/verify.h"

namespace scfa::testing {

using Tokens = std::vector<int32_t>;

class PrepareTest : public ::testing::Test {
 protected:
  PrepareOptions options(std::vector<std::string> inputs, const std::string& name) const {
    PrepareOptions made;
    made.input.inputs = std::move(inputs);
    made.set.directory = folder_.file(name);
    made.set.val_fraction = 0;
    made.threads = 2;
    return made;
  }
  // Prepares, verifies and returns the training tokens.
  Tokens prepare_tokens(const PrepareOptions& made) const {
    prepare(made);
    verify_set(made.set.directory);
    return all_tokens(made.set.directory, Split::kTrain);
  }
  Tokens prepare_tokens(std::vector<std::string> inputs) {
    return prepare_tokens(options(std::move(inputs), "set" + std::to_string(sets_++)));
  }
  static Tokens encode(const std::vector<std::string>& documents, const char* name = "gpt2") {
    const auto tokenizer = make_tokenizer(name);
    std::vector<uint32_t> tokens;
    for (const std::string& document : documents) {
      tokenizer->encode(document, tokens);
      tokens.push_back(tokenizer->end_of_text());
    }
    return {tokens.begin(), tokens.end()};
  }

  TemporaryFolder folder_;
  int sets_ = 0;
};

// Bad input, full disks, interruptions: one clear error, and nothing left behind.
class PrepareErrorsTest : public ::testing::Test {
 protected:
  PrepareOptions options(const std::string& input) const {
    PrepareOptions made;
    made.input.inputs = {input};
    made.set.directory = folder_.file("out/set");
    made.threads = 2;
    return made;
  }
  // The error must hold `part`, be one line, and leave nothing.
  void expect_error(const PrepareOptions& made, const std::string& part) const {
    const std::string error = error_of([&] { prepare(made); });
    EXPECT_NE(error.find(part), std::string::npos) << "the error is: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_TRUE(!std::filesystem::exists(folder_.file("out")) || std::filesystem::is_empty(folder_.file("out")));
  }
  void expect_error(const std::string& name, const std::string& bytes, const std::string& part) const {
    expect_error(options(folder_.put(name, bytes)), part);
  }

  TemporaryFolder folder_;
};

// Words of all kinds, some not UTF-8, some long runs.
inline std::string make_text(size_t bytes, unsigned seed, bool utf8 = true) {
  static const std::vector<std::string> kParts = {"the",
                                                  "whale",
                                                  "Ahab",
                                                  "'s",
                                                  "'ll",
                                                  "1851",
                                                  "\xC3\xA9t\xC3\xA9",
                                                  "\xE6\x9D\xB1\xE4\xBA\xAC",
                                                  "\xF0\x9F\x90\x8B",
                                                  ",",
                                                  ".",
                                                  "--",
                                                  "!",
                                                  "\n",
                                                  "\n\n",
                                                  "\t",
                                                  "\xC2\xA0",
                                                  "      ",
                                                  "                    ",
                                                  "================"};
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) {
    text += kParts[random() % kParts.size()];
    if (random() % 2) text += ' ';
    if (!utf8 && random() % 50 == 0) text += static_cast<char>(0x80 + random() % 128);
  }
  return text;
}

}  // namespace scfa::testing

#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "data/bpe.h"
#include "data/data_support.h"
#include "data/words.h"

namespace scfa {
namespace {

using testing::error_of;
using Ids = std::vector<uint32_t>;

Ids encode(Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

struct Case {
  std::string name, text;
  Ids ids;
};

const std::vector<Case>& reference_cases() {
  static const std::vector<Case> cases = [] {
    std::vector<Case> all;
    std::ifstream file(std::string(SCFA_SOURCE_DIR) + "/tests/fixtures/tokenizer_gpt2.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      all.push_back({json["name"], json["text"], json["ids"].get<Ids>()});
    }
    return all;
  }();
  return cases;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    const size_t end = word_end(text, at);
    words.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

TEST(Gpt2Tokenizer, KnownEncodings) {
  const auto tokenizer = make_tokenizer("gpt2");
  EXPECT_EQ(tokenizer->vocab_size(), 50257u);
  EXPECT_EQ(tokenizer->end_of_text(), 50256u);
  EXPECT_EQ(encode(*tokenizer, "hello world"), (Ids{31373, 995}));
  EXPECT_EQ(encode(*tokenizer, "Hello, world. Is this-- a test?"),
            (Ids{15496, 11, 995, 13, 1148, 428, 438, 257, 1332, 30}));
  EXPECT_EQ(encode(*tokenizer, "I'm here — naïve café 東京 123,456\n\n  x = 1;\t"),
            (Ids{40,    1101, 994,   851, 41492, 40304, 10545, 251, 109, 12859, 105,
                 17031, 11,   29228, 628, 220,   2124,  796,   352, 26,  197}));
  EXPECT_TRUE(encode(*tokenizer, "").empty());
}

TEST(Gpt2Tokenizer, EqualsTheReferenceOnAHardCorpus) {
  ASSERT_GT(reference_cases().size(), 300u);
  const auto tokenizer = make_tokenizer("gpt2");
  for (int pass = 0; pass < 2; ++pass)  // the second from a warm cache
    for (const Case& c : reference_cases()) {
      EXPECT_EQ(encode(*tokenizer, c.text), c.ids) << c.name << ": " << c.text;
      EXPECT_EQ(tokenizer->decode(c.ids), c.text) << c.name;
    }
}

TEST(Gpt2Tokenizer, EndOfTextInTheTextIsText) {
  const auto tokenizer = make_tokenizer("gpt2");
  EXPECT_EQ(encode(*tokenizer, "<|endoftext|>"), (Ids{27, 91, 437, 1659, 5239, 91, 29}));
  EXPECT_EQ(tokenizer->bytes(50256), "<|endoftext|>");
}

TEST(Gpt2Tokenizer, AnyBytesComeBack) {
  const auto tokenizer = make_tokenizer("gpt2");
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::string text(1 + random() % 300, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, text)), text);
  }
}

TEST(Gpt2Tokenizer, BytesThatAreNotUtf8AreOtherCharacters) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_of("ab\xFF"
                     "cd"),
            (Words{"ab", "\xFF", "cd"}));
  EXPECT_EQ(words_of("ab \xFF\xFE!1"), (Words{"ab", " \xFF\xFE!", "1"}));
  EXPECT_EQ(words_of("x\xE4\xB8y"), (Words{"x", "\xE4\xB8", "y"}));                  // a character cut short
  EXPECT_EQ(words_of("x\xC1\xA1y"), (Words{"x", "\xC1\xA1", "y"}));                  // overlong 'a'
  EXPECT_EQ(words_of("x\xE0\x80\xA0y"), (Words{"x", "\xE0\x80\xA0", "y"}));          // overlong blank
  EXPECT_EQ(words_of("x\xED\xA0\x80y"), (Words{"x", "\xED\xA0\x80", "y"}));          // a surrogate
  EXPECT_EQ(words_of("x\xF4\x90\x80\x80y"), (Words{"x", "\xF4\x90\x80\x80", "y"}));  // beyond U+10FFFF
  EXPECT_EQ(words_of("x\xC3\xA9y\xC3"), (Words{"x\xC3\xA9y", "\xC3"}));
  EXPECT_EQ(encode(*make_tokenizer("gpt2"), "\xFF"), (Ids{187}));
}

// Any prefix of a text may be cut where safe_cut says, whatever comes after the prefix.
void check_cuts(Tokenizer& tokenizer, std::string_view text, size_t step) {
  const Ids whole = encode(tokenizer, text);
  for (size_t size = 1; size <= text.size(); size += step) {
    const size_t cut = tokenizer.safe_cut(text.substr(0, size));
    ASSERT_LE(cut, size);
    Ids joined = encode(tokenizer, text.substr(0, cut));
    tokenizer.encode(text.substr(cut), joined);
    ASSERT_EQ(joined, whole) << "prefix of " << size << " bytes cut at " << cut << ": " << text;
  }
}

TEST(Gpt2Tokenizer, CutsAreSafe) {
  const auto tokenizer = make_tokenizer("gpt2");
  for (const Case& c : reference_cases()) check_cuts(*tokenizer, c.text, 1 + c.text.size() / 60);
  std::mt19937 random(3);
  const std::vector<std::string> parts = {
      " ",        "\n",  "'",        "'s",           "'l",           "l",        "re",   "a",
      "1",        "!",   "\xC2\xA0", "\xE3\x80\x80", "\xE4\xB8\xAD", "\xE4\xB8", "\xFF", "\xF0\x9F\x98\x80",
      "\xC3\xA9", "\x80"};
  for (int i = 0; i < 1500; ++i) {
    std::string text;
    for (size_t n = 1 + random() % 16; n > 0; --n) text += parts[random() % parts.size()];
    check_cuts(*tokenizer, text, 1);
  }
}

TEST(Gpt2Tokenizer, CutsAreFoundNearTheEnd) {
  const auto tokenizer = make_tokenizer("gpt2");
  EXPECT_EQ(tokenizer->safe_cut("one two three four"), 13u);  // before " four"
  EXPECT_EQ(tokenizer->safe_cut("aaaaaaaaaaaaaaa"), 0u);
  EXPECT_EQ(tokenizer->safe_cut(""), 0u);
  const std::string chinese =
      "\xE5\xA4\xAA\xE5\x88\x9D\xE6\x9C\x89\xE9\x81\x93\xEF\xBC\x8C\xE9\x81\x93";  // 太初有道，道
  EXPECT_EQ(tokenizer->safe_cut(chinese), 12u);
}

TEST(Gpt2Tokenizer, LongRunsTakeNearlyLinearTime) {
  const auto tokenizer = make_tokenizer("gpt2");
  const auto start = std::chrono::steady_clock::now();
  for (const char c : {' ', 'a', '-', '0'}) {
    const std::string run(400'000, c);
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, run)), run);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));  // quadratic: minutes
}

TEST(Gpt2Tokenizer, RefusesAWordWithoutEnd) {
  const auto tokenizer = make_tokenizer("gpt2");
  const std::string error = error_of([&] { encode(*tokenizer, std::string(Tokenizer::kMaxWord + 1, 'a')); });
  EXPECT_NE(error.find("run of 8388609 bytes"), std::string::npos) << error;
}

TEST(BytesTokenizer, IsTheBytes) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 257u);
  EXPECT_EQ(tokenizer->end_of_text(), 256u);
  EXPECT_EQ(encode(*tokenizer, std::string_view("a\0\xFF", 3)), (Ids{97, 0, 255}));
  EXPECT_EQ(tokenizer->decode(Ids{97, 0, 255}), std::string("a\0\xFF", 3));
  EXPECT_EQ(tokenizer->safe_cut("abc"), 3u);
}

TEST(Tokenizer, ErrorsNameWhatIsThere) {
  EXPECT_EQ(error_of([] { make_tokenizer("gpt4"); }), "no tokenizer is called 'gpt4'; there are gpt2 and bytes");
  EXPECT_EQ(error_of([] { make_tokenizer("bytes")->bytes(257); }), "token 257 is not in the vocabulary of 257");
  EXPECT_EQ(error_of([] { make_tokenizer("gpt2")->bytes(50257); }), "token 50257 is not in the vocabulary of 50257");
}

TEST(BpeVocabulary, RefusesWhatIsNoListOfMerges) {
  EXPECT_NE(error_of([] { BpeVocabulary("#version: 0.2\nab\n"); }).find("without two parts"), std::string::npos);
  EXPECT_NE(error_of([] { BpeVocabulary("#version: 0.2\na bc\n"); }).find("not there yet"), std::string::npos);
  EXPECT_EQ(BpeVocabulary("#version: 0.2\na b\nab c\n").size(), 259u);
}

}  // namespace
}  // namespace scfa

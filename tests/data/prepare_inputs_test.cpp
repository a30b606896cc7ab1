// Every input format gives the tokens of its text.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "data/prepare_fixture.h"

namespace scfa {
namespace {

using testing::all_tokens;
using testing::gzip;
using testing::make_text;
using testing::PrepareTest;
using testing::tar_end;
using testing::tar_entry;
using testing::Tokens;
using testing::zstd;

using PrepareInputsTest = PrepareTest;

const char* const kLines =
    "{\"text\": \"One whale.\\n\", \"meta\": {\"a\": [1, -2.5e3, true, null, \"x\\\"y\"], \"b\": {}}}\n"
    "\n"
    "{\"meta\":[],\"text\":\"caf\\u00e9 \\ud83d\\ude00 \\/\"}\r\n"
    "  {\"text\": [\"first\", \"second\"]}\n"
    "{\"text\": \"\"}\n"
    "{\"text\": \"half \\ud83d pair, last line\"}";
const std::vector<std::string> kTexts = {"One whale.\n", "caf\xC3\xA9 \xF0\x9F\x98\x80 /", "first\n\nsecond",
                                         "half \xEF\xBF\xBD pair, last line"};

TEST_F(PrepareInputsTest, EveryFormOfInputGivesTheSame) {
  const Tokens expected = encode(kTexts);
  const std::string zst = zstd(kLines), gz = gzip(kLines);
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl", kLines)}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.ndjson", "\xEF\xBB\xBF" + std::string(kLines))}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.zst", zst)}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.json.gz", gz)}), expected);
  const std::string tar = tar_entry("docs/", "", '5') + tar_entry("docs/link", "no bytes follow", '1').substr(0, 512) +
                          tar_entry("docs/a.jsonl.zst", zst) + tar_entry("docs/picture.png", "\x89PNG") + tar_end();
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar", tar)}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar.gz", gzip(tar))}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("b.tar", tar_entry("inner.tar", tar) + tar_end())}), expected);
  folder_.put("texts/1.txt", kTexts[0]);
  folder_.put("texts/2.txt.gz", gzip(kTexts[1]));
  folder_.put("texts/3/x.md", kTexts[2]);
  folder_.put("texts/4.txt.zst", zstd(kTexts[3]));
  folder_.put("texts/empty.txt", "");
  folder_.put("texts/picture.png", "\x89PNG");
  const PrepareOptions texts = options({folder_.file("texts")}, "texts-set");
  EXPECT_EQ(prepare(texts).skipped_files, 1);
  EXPECT_EQ(all_tokens(texts.set.directory, Split::kTrain), expected);
}

TEST_F(PrepareInputsTest, SeveralFramesAndMembersFollowEachOther) {
  const std::string line = "{\"text\":\"abc\"}\n";
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.zst", zstd(line) + zstd(line))}), encode({"abc", "abc"}));
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.gz", gzip(line) + gzip(line))}), encode({"abc", "abc"}));
}

TEST_F(PrepareInputsTest, LongZstdWindows) {
  for (const int log : {27, 28}) {
    const std::string text = make_text(300'000, 1);
    EXPECT_EQ(prepare_tokens({folder_.put("a.txt.zst", zstd(text, log))}), encode({text})) << log;
  }
}

TEST_F(PrepareInputsTest, LongNamesInArchives) {
  const std::string name = std::string(150, 'd') + "/a.txt";
  const std::string record = "path=" + name + "\n";
  const std::string pax = std::to_string(record.size() + 4) + " " + record;
  ASSERT_EQ(pax.size(), record.size() + 4);
  const std::string gnu = tar_entry("././@LongLink", name + '\0', 'L') + tar_entry("cut-off", "gnu text") + tar_end();
  const std::string posix = tar_entry("PaxHeader", pax, 'x') + tar_entry("cut-off", "pax text") + tar_end();
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar", gnu)}), encode({"gnu text"}));
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar", posix)}), encode({"pax text"}));
}

TEST_F(PrepareInputsTest, StandardInput) {
  const auto from_stdin = [&](const std::string& bytes, const std::string& format) {
    const int saved = dup(STDIN_FILENO);
    const int file = open(folder_.put("stdin", bytes).c_str(), O_RDONLY);
    dup2(file, STDIN_FILENO);
    PrepareOptions made = options({"-"}, "stdin" + std::to_string(sets_++));
    made.input.stdin_format = format;
    const Tokens tokens = prepare_tokens(made);
    dup2(saved, STDIN_FILENO);
    close(file);
    close(saved);
    return tokens;
  };
  EXPECT_EQ(from_stdin(kLines, "auto"), encode(kTexts));
  EXPECT_EQ(from_stdin(zstd(kLines), "auto"), encode(kTexts));
  EXPECT_EQ(from_stdin(kLines, "jsonl"), encode(kTexts));
  EXPECT_EQ(from_stdin(kLines, "text"), encode({kLines}));
  EXPECT_EQ(from_stdin("plain {text}", "auto"), encode({"plain {text}"}));
}

TEST_F(PrepareInputsTest, AnotherField) {
  PrepareOptions made = options({folder_.put("a.jsonl", "{\"body\": \"b\", \"text\": 1}\n")}, "set");
  made.input.field = "body";
  EXPECT_EQ(prepare_tokens(made), encode({"b"}));
}

TEST_F(PrepareInputsTest, TokenFilesAreTakenAsTheyAre) {
  const auto bin = [](std::vector<uint16_t> tokens) {
    return std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
  };
  // A document may go on in the next file; text after an open one closes it.
  const std::string a = folder_.put("a.bin", bin({50256, 1, 2})), b = folder_.put("b.bin", bin({3, 50256, 4}));
  EXPECT_EQ(prepare_tokens({a, b}), (Tokens{50256, 1, 2, 3, 50256, 4}));
  EXPECT_EQ(prepare_tokens({a, folder_.put("c.txt", "hello"), b}),
            (Tokens{50256, 1, 2, 50256, 31373, 50256, 3, 50256, 4}));
}

}  // namespace
}  // namespace scfa

// What prepare writes for good input; prepare_errors_test.cpp has the bad.
#include "data/prepare.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "data/data_support.h"
#include "data/export.h"
#include "data/verify.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::all_tokens;
using testing::gzip;
using testing::slurp;
using testing::tar_end;
using testing::tar_entry;
using testing::TemporaryFolder;
using testing::zstd;

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

// Words of all kinds, some not UTF-8, some long runs.
std::string make_text(size_t bytes, unsigned seed, bool utf8 = true) {
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

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else
      out += c;
  }
  return out + "\"";
}

const char* const kLines =
    "{\"text\": \"One whale.\\n\", \"meta\": {\"a\": [1, -2.5e3, true, null, \"x\\\"y\"], \"b\": {}}}\n"
    "\n"
    "{\"meta\":[],\"text\":\"caf\\u00e9 \\ud83d\\ude00 \\/\"}\r\n"
    "  {\"text\": [\"first\", \"second\"]}\n"
    "{\"text\": \"\"}\n"
    "{\"text\": \"half \\ud83d pair, last line\"}";
const std::vector<std::string> kTexts = {"One whale.\n", "caf\xC3\xA9 \xF0\x9F\x98\x80 /", "first\n\nsecond",
                                         "half \xEF\xBF\xBD pair, last line"};

TEST_F(PrepareTest, EveryFormOfInputGivesTheSame) {
  const Tokens expected = encode(kTexts);
  const std::string zst = zstd(kLines), gz = gzip(kLines);
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl", kLines)}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.ndjson", "\xEF\xBB\xBF" + std::string(kLines))}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.zst", zst)}), expected);
  EXPECT_EQ(prepare_tokens({folder_.put("a.json.gz", gz)}), expected);
  const std::string tar = tar_entry("docs/", "", '5') + tar_entry("docs/a.jsonl.zst", zst) +
                          tar_entry("docs/picture.png", "\x89PNG") + tar_end();
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

TEST_F(PrepareTest, SeveralFramesAndMembersFollowEachOther) {
  const std::string line = "{\"text\":\"abc\"}\n";
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.zst", zstd(line) + zstd(line))}), encode({"abc", "abc"}));
  EXPECT_EQ(prepare_tokens({folder_.put("a.jsonl.gz", gzip(line) + gzip(line))}), encode({"abc", "abc"}));
}

TEST_F(PrepareTest, LongZstdWindows) {
  for (const int log : {27, 28}) {
    const std::string text = make_text(300'000, 1);
    EXPECT_EQ(prepare_tokens({folder_.put("a.txt.zst", zstd(text, log))}), encode({text})) << log;
  }
}

TEST_F(PrepareTest, LongNamesInArchives) {
  const std::string name = std::string(150, 'd') + "/a.txt";
  const std::string record = "path=" + name + "\n";
  const std::string pax = std::to_string(record.size() + 4) + " " + record;
  ASSERT_EQ(pax.size(), record.size() + 4);
  const std::string gnu = tar_entry("././@LongLink", name + '\0', 'L') + tar_entry("cut-off", "gnu text") + tar_end();
  const std::string posix = tar_entry("PaxHeader", pax, 'x') + tar_entry("cut-off", "pax text") + tar_end();
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar", gnu)}), encode({"gnu text"}));
  EXPECT_EQ(prepare_tokens({folder_.put("a.tar", posix)}), encode({"pax text"}));
}

TEST_F(PrepareTest, StandardInput) {
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

TEST_F(PrepareTest, AnotherField) {
  PrepareOptions made = options({folder_.put("a.jsonl", "{\"body\": \"b\", \"text\": 1}\n")}, "set");
  made.input.field = "body";
  EXPECT_EQ(prepare_tokens(made), encode({"b"}));
}

TEST_F(PrepareTest, BytesTokenizer) {
  PrepareOptions made = options({folder_.put("a.txt", "ab\xFF")}, "set");
  made.tokenizer = "bytes";
  EXPECT_EQ(prepare_tokens(made), (Tokens{97, 98, 255, 256}));
}

TEST_F(PrepareTest, ATextInPiecesIsTheTextAsAWhole) {
  const std::string text = make_text(6 * kPieceBytes, 5, false) + std::string(1'500'000, 'a') +
                           make_text(kPieceBytes, 6) + std::string(1'100'000, ' ') + "end";
  EXPECT_EQ(prepare_tokens({folder_.put("a.txt", text)}), encode({text}));
  PrepareOptions made = options({folder_.file("a.txt")}, "bytes");
  made.tokenizer = "bytes";
  EXPECT_EQ(prepare_tokens(made), encode({text}, "bytes"));
}

TEST_F(PrepareTest, SeparatorLinesSplitTexts) {
  const std::string mark = "<|endoftext|>";
  std::vector<std::string> documents;
  std::string file = mark + "\n";  // nothing before it: no document
  for (unsigned i = 0; i < 300; ++i) {
    // Lines that only look like the separator; documents around the size of a piece.
    documents.push_back(make_text(i % 60 == 7 ? kPieceBytes + i : 40 * i + 1, i) + " x" + mark + "\n" + mark + " \n");
    file += documents.back() + mark + (i % 3 == 0 ? "\r\n" : "\n");
  }
  documents.push_back("last, without a newline");
  file += documents.back();
  PrepareOptions made = options({folder_.put("a.txt", file)}, "set");
  made.input.separator = mark;
  EXPECT_EQ(prepare_tokens(made), encode(documents));
}

TEST_F(PrepareTest, ManySeparatorsAtTheEdgesOfPieces) {
  std::string file;
  std::vector<std::string> documents;
  while (file.size() < 3 * kPieceBytes) {
    documents.push_back(std::string(documents.size() % 5 + 1, 'a') + "\n");
    file += documents.back() + "--\n";
  }
  PrepareOptions made = options({folder_.put("a.txt", file)}, "set");
  made.input.separator = "--";
  EXPECT_EQ(prepare_tokens(made), encode(documents));
}

TEST_F(PrepareTest, ResultDoesNotDependOnThreads) {
  std::string lines;
  for (unsigned i = 0; i < 400; ++i) lines += "{\"text\":" + json_string(make_text(200 + i * 37 % 9000, i)) + "}\n";
  const std::string jsonl = folder_.put("a.jsonl", lines), text = folder_.put("b.txt", make_text(2'000'000, 4));
  std::vector<std::string> manifests;
  for (const int threads : {1, 2, 7}) {
    PrepareOptions made = options({jsonl, text}, "set" + std::to_string(threads));
    made.threads = threads;
    made.set.val_fraction = 0.1;
    made.set.seed = 3;
    made.set.shard_tokens = 100'000;
    const Manifest manifest = prepare(made).manifest;
    EXPECT_GT(manifest.train.shards.size(), 3u);
    EXPECT_NEAR(static_cast<double>(manifest.val.documents()), 40, 20);
    EXPECT_EQ(manifest.train.documents() + manifest.val.documents(), 401);
    EXPECT_FALSE(manifest.val_is_tail);
    verify_set(made.set.directory);
    manifests.push_back(slurp(made.set.directory + "/manifest.json"));  // has the checksums
  }
  EXPECT_EQ(manifests[0], manifests[1]);
  EXPECT_EQ(manifests[0], manifests[2]);
}

TEST_F(PrepareTest, HeldOutDocumentsAreWholeAndChosenBySeed) {
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += "{\"text\":\"document " + std::to_string(i) + "\"}\n";
  const std::string input = folder_.put("a.jsonl", lines);
  std::vector<Tokens> held_out;
  for (const uint64_t seed : {1, 2}) {
    PrepareOptions made = options({input}, "set" + std::to_string(seed));
    made.set.val_fraction = 0.2;
    made.set.seed = seed;
    prepare(made);
    Tokens train, val;
    for (int i = 0; i < 200; ++i) {
      const Tokens tokens = encode({"document " + std::to_string(i)});
      Tokens& to = is_held_out(seed, i, 0.2) ? val : train;
      to.insert(to.end(), tokens.begin(), tokens.end());
    }
    EXPECT_EQ(all_tokens(made.set.directory, Split::kTrain), train);
    EXPECT_EQ(all_tokens(made.set.directory, Split::kVal), val);
    held_out.push_back(val);
  }
  EXPECT_NE(held_out[0], held_out[1]);
}

TEST_F(PrepareTest, OneDocumentGivesItsTailToValidation) {
  const std::string text = make_text(50'000, 2);
  const Tokens all = encode({text});
  for (const uint64_t seed : {0, 1, 2, 3, 4, 5}) {  // whichever split its hash chooses
    PrepareOptions made = options({folder_.put("a.txt", text)}, "set" + std::to_string(seed));
    made.set.val_fraction = 0.3;
    made.set.seed = seed;
    made.set.shard_tokens = 1000;
    const Manifest manifest = prepare(made).manifest;
    EXPECT_TRUE(manifest.val_is_tail);
    verify_set(made.set.directory);
    Tokens joined = all_tokens(made.set.directory, Split::kTrain);
    EXPECT_NEAR(static_cast<double>(joined.size()), 0.7 * static_cast<double>(all.size()), 1);
    const Tokens val = all_tokens(made.set.directory, Split::kVal);
    joined.insert(joined.end(), val.begin(), val.end());
    EXPECT_EQ(joined, all);
    EXPECT_EQ(manifest.train.bytes() + manifest.val.bytes(), static_cast<int64_t>(text.size()));
  }
}

TEST_F(PrepareTest, ExportsComeBackAsInputs) {
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += "{\"text\":\"some document " + std::to_string(i * i) + "\"}\n";
  PrepareOptions made = options({folder_.put("a.jsonl", lines)}, "set");
  made.set.val_fraction = 0.2;
  made.export_form = "nanogpt";
  prepare(made);
  const Tokens train = all_tokens(made.set.directory, Split::kTrain), val = all_tokens(made.set.directory, Split::kVal);
  EXPECT_EQ(slurp(made.set.directory + "/nanogpt/train.bin"),
            slurp(made.set.directory + "/train-00000.bin").substr(64));
  const auto names = export_set(made.set.directory, ExportForm::kLlmC, folder_.file("llmc"));
  EXPECT_EQ(names, (std::vector<std::string>{"train_000000.bin", "val_000000.bin"}));
  const std::string llmc = slurp(folder_.file("llmc/train_000000.bin"));
  EXPECT_EQ(llmc.size(), 1024 + 2 * train.size());
  EXPECT_EQ(llmc.substr(0, 8), std::string("\x88\xD8\x34\x01\x01\0\0\0", 8));
  EXPECT_EQ(prepare_tokens({made.set.directory + "/nanogpt/train.bin"}), train);
  EXPECT_EQ(prepare_tokens({folder_.file("llmc/val_000000.bin")}), val);
  Tokens both = train;
  both.insert(both.end(), val.begin(), val.end());
  EXPECT_EQ(prepare_tokens({folder_.file("llmc")}), both);
}

TEST_F(PrepareTest, TokenFilesAreTakenAsTheyAre) {
  const auto bin = [](std::vector<uint16_t> tokens) {
    return std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
  };
  // A document may go on in the next file; text after an open one closes it.
  const std::string a = folder_.put("a.bin", bin({50256, 1, 2})), b = folder_.put("b.bin", bin({3, 50256, 4}));
  EXPECT_EQ(prepare_tokens({a, b}), (Tokens{50256, 1, 2, 3, 50256, 4}));
  EXPECT_EQ(prepare_tokens({a, folder_.put("c.txt", "hello"), b}),
            (Tokens{50256, 1, 2, 50256, 31373, 50256, 3, 50256, 4}));
}

TEST_F(PrepareTest, ProgressGrowsToTheEnd) {
  const std::string text = make_text(3'000'000, 1);
  PrepareProgress last;
  prepare(options({folder_.put("a.txt", text)}, "set"), [&](const PrepareProgress& now) {
    EXPECT_GE(now.text_bytes, last.text_bytes);
    EXPECT_GE(now.tokens, last.tokens);
    last = now;
  });
  EXPECT_EQ(last.text_bytes, static_cast<int64_t>(text.size()));
  EXPECT_EQ(last.read_bytes, last.total_bytes);
  EXPECT_EQ(last.documents, 1);
}

}  // namespace
}  // namespace scfa

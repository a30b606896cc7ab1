// What prepare writes for good input; prepare_inputs_test.cpp has the formats of input, prepare_errors_test.cpp the
// bad.
#include "data/prepare.h"

#include <gtest/gtest.h>

#include "data/export.h"
#include "data/prepare_fixture.h"

namespace scfa {
namespace {

using testing::all_tokens;
using testing::make_text;
using testing::PrepareTest;
using testing::read_text;
using testing::Tokens;

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

// The end of the first piece falls on every byte of a separator line, and of a line that only ends like one.
TEST_F(PrepareTest, ASeparatorAtTheEndOfAPiece) {
  const std::string mark = "<|endoftext|>";
  for (const bool separator : {true, false})
    for (size_t shift = 0; shift < 20; ++shift) {
      std::string before;
      while (before.size() < kPieceBytes - shift) before += "ab ";
      before.resize(kPieceBytes - shift);
      before += separator ? "\n" : " x";
      const std::string after = "after it\n";
      PrepareOptions made = options({folder_.put("a.txt", before + mark + "\n" + after)},
                                    "set" + std::to_string(shift) + std::to_string(separator));
      made.input.separator = mark;
      const std::vector<std::string> documents =
          separator ? std::vector{before, after} : std::vector{before + mark + "\n" + after};
      EXPECT_EQ(prepare_tokens(made), encode(documents)) << shift;
    }
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
    manifests.push_back(read_text(made.set.directory + "/manifest.json"));  // has the checksums
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

TEST_F(PrepareTest, ATenthOfOneDocumentIsHeldOutByDefault) {
  PrepareOptions made = options({folder_.put("a.txt", std::string(999, 'a'))}, "set");
  made.tokenizer = "bytes";
  made.set.val_fraction.reset();
  const Manifest manifest = prepare(made).manifest;
  EXPECT_TRUE(manifest.val_is_tail);
  EXPECT_EQ(manifest.val.tokens(), 100);
  EXPECT_EQ(manifest.train.tokens(), 900);
  EXPECT_EQ(manifest.val_fraction, 0.1);
  PrepareOptions large = options({folder_.put("b.txt", std::string(10'500'000, ' '))}, "large");
  large.tokenizer = "bytes";
  large.set.val_fraction.reset();
  EXPECT_EQ(prepare(large).manifest.val.tokens(), 1'000'000);
}

TEST_F(PrepareTest, ExportsComeBackAsInputs) {
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += "{\"text\":\"some document " + std::to_string(i * i) + "\"}\n";
  PrepareOptions made = options({folder_.put("a.jsonl", lines)}, "set");
  made.set.val_fraction = 0.2;
  made.export_format = "nanogpt";
  prepare(made);
  const Tokens train = all_tokens(made.set.directory, Split::kTrain), val = all_tokens(made.set.directory, Split::kVal);
  EXPECT_EQ(read_text(made.set.directory + "/nanogpt/train.bin"),
            read_text(made.set.directory + "/train-00000.bin").substr(64));
  const auto names = export_set(made.set.directory, ExportFormat::kLlmC, folder_.file("llmc"));
  EXPECT_EQ(names, (std::vector<std::string>{"train_000000.bin", "val_000000.bin"}));
  const std::string llmc = read_text(folder_.file("llmc/train_000000.bin"));
  EXPECT_EQ(llmc.size(), 1024 + 2 * train.size());
  EXPECT_EQ(llmc.substr(0, 8), std::string("\x88\xD8\x34\x01\x01\0\0\0", 8));
  EXPECT_EQ(prepare_tokens({made.set.directory + "/nanogpt/train.bin"}), train);
  EXPECT_EQ(prepare_tokens({folder_.file("llmc/val_000000.bin")}), val);
  Tokens both = train;
  both.insert(both.end(), val.begin(), val.end());
  EXPECT_EQ(prepare_tokens({folder_.file("llmc")}), both);
}

TEST_F(PrepareTest, ExportsCheckTheShardsFirst) {
  PrepareOptions made = options({folder_.put("a.txt", make_text(3000, 1))}, "set");
  prepare(made);
  std::string shard = read_text(made.set.directory + "/train-00000.bin");
  shard[100] = static_cast<char>(shard[100] ^ 1);
  test::write_text(made.set.directory + "/train-00000.bin", shard);
  const std::string error =
      testing::error_of([&] { export_set(made.set.directory, ExportFormat::kNanoGpt, folder_.file("ng")); });
  EXPECT_NE(error.find("train-00000.bin: corrupt: its checksum"), std::string::npos) << error;
  EXPECT_EQ(folder_.entries(), 2u);
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

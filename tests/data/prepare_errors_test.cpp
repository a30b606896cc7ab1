// Bad input: one clear error that names it, and nothing left behind.
#include <gtest/gtest.h>

#include "data/prepare_fixture.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::gzip;
using testing::PrepareErrorsTest;
using testing::tar_end;
using testing::tar_entry;
using testing::zstd;

TEST_F(PrepareErrorsTest, BadJson) {
  const std::string good = "{\"text\": \"a\"}\n";
  const auto line = [&](const std::string& bad, const std::string& part) {
    expect_error("a.jsonl", good + good + bad + "\n" + good, part);
    expect_error("a.jsonl", good + good + bad + "\n" + good, "a.jsonl:3: ");
  };
  line("{\"text\": \"a\"", "not valid JSON at column 13: the line ends; a comma or the end of the object");
  line("{\"text\": \"a", "not valid JSON at column 12: the line ends; within a string");
  line("{\"text\": \"\\x\"}", "not valid JSON at column 12: unknown escape");
  line("{\"text\": \"\\u12g4\"}", "not valid JSON at column 15: four hexadecimal digits");
  line("{\"text\": \"a\tb\"}", "not valid JSON at column 12: a control character");
  line("{\"text\": \"a\"} x", "something follows the object");
  line("{\"text\": \"a\",}", "a string must start here");
  line("{text: 1}", "a string must start here");
  line("{\"n\": 01, \"text\": \"a\"}", "a comma or the end of the object");
  line("{\"n\": 1., \"text\": \"a\"}", "a digit must follow");
  line("{\"n\": nul, \"text\": \"a\"}", "a value must follow");
  line("{\"n\": [1, 2, \"text\": \"a\"}", "a comma or the end of the list");
  line("{\"n\":" + std::string(1000, '[') + "}", "nested too deep");
  line("[1, 2]", "a list, where each line must be an object");
  line("plain text", "an object must start here");
  line("{\"text\": null}", "field 'text' must be a string or a list of strings");
  line("{\"text\": [\"a\", 2]}", "the list in field 'text' must hold strings");
}

TEST_F(PrepareErrorsTest, WrongFieldNameListsTheFields) {
  expect_error("a.jsonl.gz", gzip("{\"content\": \"a\", \"meta\": {\"text\": 1}}\n"),
               "a.jsonl.gz:1: no field 'text'; this line has: content, meta");
  expect_error("a.jsonl", "{}\n", "a.jsonl:1: no field 'text'; this line has: none");
}

TEST_F(PrepareErrorsTest, TheFirstErrorIsTheOneReported) {
  std::string lines;
  for (int i = 0; i < 200'000; ++i)
    lines += i == 70'000 || i == 150'000 ? "bad\n" : "{\"text\": \"some words here\"}\n";
  for (int i = 0; i < 3; ++i) expect_error("a.jsonl", lines, "a.jsonl:70001: not valid JSON");
}

TEST_F(PrepareErrorsTest, BadInputs) {
  expect_error(options(folder_.file("none.txt")), "none.txt: no such file or folder");
  fs::create_directory(folder_.file("folder"));
  expect_error(options(folder_.file("folder")), "the folder has no file with a known extension");
  expect_error("a.txt", "", "the input has no text");
  expect_error("a.parquet", "PAR1....", "is a Parquet file; try: node scripts/parquet_text.mjs");
  expect_error("a.zip", "PK\x03\x04....", "is a zip archive; try: unzip -p");
  expect_error("a.txt.xz",
               "\xFD"
               "7zXZ",
               "is an xz file; try: xz -dc");
  const std::string png("\x89PNG\r\n\x1A\n\0\0\0\rIHDR", 16);
  expect_error("a.md", png, "a.md: has bytes of value 0 near its start, so it is not UTF-8 text (UTF-16: iconv");
  expect_error("a.txt.gz", gzip(png), "a.txt.gz: has bytes of value 0");
  PrepareOptions made = options(folder_.put("a.md", png));
  made.tokenizer = "bytes";
  made.set.directory = folder_.file("any_bytes");
  EXPECT_NO_THROW(prepare(made));
  made = options(folder_.put("a.txt", "a"));
  made.tokenizer = "gpt5";
  expect_error(made, "there are gpt2 and bytes");
  made = options("-");
  made.input.stdin_format = "csv";
  expect_error(made, "--stdin-format must be text, jsonl or auto, not 'csv'");
  made = options(folder_.file("a.txt"));
  made.set.val_fraction = 1;
  expect_error(made, "--val-fraction must be at least 0 and below 1");
  made = options(folder_.file("a.txt"));
  made.export_format = "csv";
  expect_error(made, "no export format is called 'csv'");
}

TEST_F(PrepareErrorsTest, TruncatedAndCorruptStreams) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += std::to_string(i * 7919) + " ";
  const std::string zst = zstd(text), gz = gzip(text);
  expect_error("a.txt.zst", zst.substr(0, zst.size() / 2), "a.txt.zst: truncated: ends in the middle of a zstd frame");
  expect_error("a.txt.gz", gz.substr(0, gz.size() / 2), "a.txt.gz: truncated: ends in the middle of gzip data");
  expect_error("b.txt.zst", text, "b.txt.zst: not zst data, despite its name");
  expect_error("b.txt.gz", zst, "b.txt.gz: not gz data, despite its name");
  expect_error("a.txt.gz", gz + "junk", "a.txt.gz: corrupt gzip data");
  std::string bad = zst;
  for (size_t i = 100; i < 200; ++i) bad[i] = static_cast<char>(~bad[i]);
  expect_error("a.txt.zst", bad, "a.txt.zst: corrupt zstd data");
  const std::string tar = tar_entry("a.txt", text) + tar_end();
  expect_error("a.tar", tar.substr(0, 1000), "a.tar:a.txt: truncated: the archive ends");
  expect_error("a.tar", tar_entry("a.txt", "x") + std::string(512, 'z'), "a.tar: corrupt tar archive: wrong checksum");
  expect_error("a.tar", tar_entry("a.png", "x") + tar_end(), "a.tar: the archive has no file with a known extension");
  expect_error("a.tar", "no archive", "a.tar: not a tar archive");
  expect_error("b.tar", tar_entry("a.jsonl", "{\"text\": 1}") + tar_end(), "b.tar:a.jsonl:1: ");
}

TEST_F(PrepareErrorsTest, BadTokenFiles) {
  expect_error("a.bin", "abc", "a.bin: an odd number of bytes");
  expect_error("a.bin", "", "a.bin: the file has no tokens");
  expect_error("a.bin", std::string("\1\0\2\0\xFF\xFF", 6), "a.bin: token 2 is 65535, not below the 50257");
  expect_error("a.bin", "scfa-tok", "a.bin: is a shard of a prepared set");
  std::string llmc("\x88\xD8\x34\x01\x01\0\0\0\x03\0\0\0", 12);
  llmc.resize(1024);
  expect_error("a.bin", llmc + "abcd", "a.bin: truncated: holds 2 tokens, its header says 3");
  expect_error("a.bin", llmc + "abcdabcd", "a.bin: holds 4 tokens, its header says 3");
  expect_error("a.bin", llmc.substr(0, 100), "a.bin: truncated: ends within its header");
  for (const int bit : {0, 7, 24, 31}) {  // of the magic
    std::string flipped = llmc + "abcdab";
    flipped[static_cast<size_t>(bit / 8)] = static_cast<char>(flipped[static_cast<size_t>(bit / 8)] ^ 1 << bit % 8);
    expect_error("a.bin", flipped, "a.bin: looks like a token file of llm.c, but starts with ");
  }
  llmc[4] = 2;
  expect_error("a.bin", llmc + "abcdab", "a.bin: version 2 of llm.c's token files");
}

TEST_F(PrepareErrorsTest, ATextWithoutPlacesToCut) {
  expect_error("a.txt", std::string(Tokenizer::kMaxWord * 2 + 10, 'a'), "have no place to cut between words");
}

TEST_F(PrepareErrorsTest, DeepAndWideJson) {
  const std::string deep(200'000, '[');
  expect_error("a.jsonl", "{\"text\": \"a\", \"n\": " + deep + "\n", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"text\": " + deep + "\n", "the list in field 'text' must hold strings");
  std::string wide = "{\"k\": 0";
  for (int i = 0; i < 300'000; ++i) wide += concat(", \"key", i, "\": ", i);
  const std::string error = error_of([&] { prepare(options(folder_.put("a.jsonl", wide + "}\n"))); });
  EXPECT_NE(error.find("no field 'text'; this line has: k, key0"), std::string::npos);
  EXPECT_LT(error.size(), 600u);
}

}  // namespace
}  // namespace scfa

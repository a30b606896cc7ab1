// Bad input, full disks, interruptions: one clear error, and nothing left behind.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "data/data_support.h"
#include "data/prepare.h"
#include "data/prepare_cli.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::gzip;
using testing::tar_end;
using testing::tar_entry;
using testing::TemporaryFolder;
using testing::zstd;

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
    EXPECT_TRUE(!fs::exists(folder_.file("out")) || fs::is_empty(folder_.file("out")));
  }
  void expect_error(const std::string& name, const std::string& bytes, const std::string& part) const {
    expect_error(options(folder_.put(name, bytes)), part);
  }

  TemporaryFolder folder_;
};

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
  expect_error("a.parquet", "PAR1....", "is a Parquet file");
  expect_error("a.zip", "PK\x03\x04....", "is a zip archive; try: unzip -p");
  expect_error("a.txt.xz",
               "\xFD"
               "7zXZ",
               "is an xz file; try: xz -dc");
  PrepareOptions made = options(folder_.put("a.txt", "a"));
  made.tokenizer = "gpt5";
  expect_error(made, "there are gpt2 and bytes");
  made = options("-");
  made.input.stdin_format = "csv";
  expect_error(made, "--stdin-format must be text, jsonl or auto, not 'csv'");
  made = options(folder_.file("a.txt"));
  made.set.val_fraction = 1;
  expect_error(made, "--val-fraction must be at least 0 and below 1");
  made = options(folder_.file("a.txt"));
  made.export_form = "csv";
  expect_error(made, "no export form is called 'csv'");
}

TEST_F(PrepareErrorsTest, TruncatedAndCorruptStreams) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += std::to_string(i * 7919) + " ";
  const std::string zst = zstd(text), gz = gzip(text);
  expect_error("a.txt.zst", zst.substr(0, zst.size() / 2), "a.txt.zst: truncated: ends in the middle of a zstd frame");
  expect_error("a.txt.gz", gz.substr(0, gz.size() / 2), "a.txt.gz: truncated: ends in the middle of gzip data");
  expect_error("b.txt.zst", text, "b.txt.zst: not zst data, whatever its name says");
  expect_error("b.txt.gz", zst, "b.txt.gz: not gz data, whatever its name says");
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
  llmc[4] = 2;
  expect_error("a.bin", llmc + "abcdab", "a.bin: version 2 of llm.c's token files");
}

TEST_F(PrepareErrorsTest, ATextWithoutPlacesToCut) {
  expect_error("a.txt", std::string(Tokenizer::kMaxWord * 2 + 10, 'a'), "have no place to cut between words");
}

TEST_F(PrepareErrorsTest, ExistingOutput) {
  PrepareOptions made = options(folder_.put("a.txt", "some text"));
  made.set.directory = folder_.file("set");
  prepare(made);
  const std::string before = testing::read_text(folder_.file("set/manifest.json"));
  EXPECT_NE(error_of([&] { prepare(made); }).find("there is a prepared set already; --overwrite replaces it"),
            std::string::npos);
  EXPECT_EQ(testing::read_text(folder_.file("set/manifest.json")), before);
  made.set.overwrite = true;
  folder_.put("a.txt", "some other text");
  prepare(made);
  EXPECT_NE(testing::read_text(folder_.file("set/manifest.json")), before);
  EXPECT_EQ(folder_.entries(), 2u);  // the input and the set
  folder_.put("mine/thesis.txt", "precious");
  made.set.directory = folder_.file("mine");
  EXPECT_NE(error_of([&] { prepare(made); }).find("exists and is not a prepared set"), std::string::npos);
  EXPECT_TRUE(fs::exists(folder_.file("mine/thesis.txt")));
}

TEST_F(PrepareErrorsTest, AFailedWriteLeavesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const std::string input = folder_.put("a.txt", std::string(3'000'000, 'x') + " end");
  PrepareOptions made = options(input);
  made.tokenizer = "bytes";
  rlimit tight = before;
  tight.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_FSIZE, &tight);
  expect_error(made, "train-00000.bin: cannot be written: File too large");
  setrlimit(RLIMIT_FSIZE, &before);
}

TEST_F(PrepareErrorsTest, AnInterruptionLeavesNothing) {
  const PrepareOptions made = options(folder_.put("a.txt", std::string(8'000'000, ' ') + "x"));
  std::atomic<bool> stop{false};
  PrepareOptions bytes = made;
  bytes.tokenizer = "bytes";
  const std::string error = error_of([&] {
    prepare(
        bytes, [&](const PrepareProgress&) { stop = true; }, &stop);
  });
  EXPECT_NE(error.find("interrupted"), std::string::npos) << error;
  EXPECT_TRUE(fs::is_empty(folder_.file("out")));
}

// The command line, in this process.
class PrepareCliTest : public PrepareErrorsTest {
 protected:
  std::string run(std::vector<std::string> arguments) {
    std::vector<const char*> argv{"prepare_data"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    std::ostringstream out;
    run_prepare_data(static_cast<int>(argv.size()), argv.data(), out, -1, nullptr);
    return out.str();
  }
  std::string run_error(const std::vector<std::string>& arguments) {
    return error_of([&] { run(arguments); });
  }
};

TEST_F(PrepareCliTest, PreparesVerifiesTellsAndExports) {
  const std::string a = folder_.put("a.txt", "Call me Ishmael. Call me Ahab. Call me Ishmael."),
                    b = folder_.put("b,c.txt", "x");
  const std::string set = folder_.file("set");
  const std::string prepared =
      run({"--input", a, b, "--tokenizer", "bytes", "--output", set, "--val-fraction=0.2", "--threads", "1"});
  EXPECT_NE(prepared.find("wrote " + set), std::string::npos) << prepared;
  EXPECT_NE(run({"verify", set}).find("all shards are as the manifest says"), std::string::npos);
  const std::string info = run({"info", set, "--bigram"});
  EXPECT_NE(info.find("tokenizer bytes, 257 entries, end-of-text 256, stored as uint16"), std::string::npos) << info;
  EXPECT_NE(info.find("\nbigram: "), std::string::npos) << info;
  EXPECT_NE(info.find(" nats a token on validation (perplexity "), std::string::npos) << info;
  run({"export", set, "--form", "nanogpt", "--output", folder_.file("ng")});
  EXPECT_TRUE(fs::exists(folder_.file("ng/train.bin")));
}

TEST_F(PrepareCliTest, HelpAndErrors) {
  const std::string help = run({"--help"});
  for (const char* word : {"--input", "--field", "--val-fraction", "verify DIR", "openwebtext2.jsonl.zst.tar"})
    EXPECT_NE(help.find(word), std::string::npos) << word;
  EXPECT_NE(run_error({"--outptu", "x"}).find("outptu"), std::string::npos);
  EXPECT_NE(run_error({"--input", "a.txt"}).find("no such file"), std::string::npos);
  EXPECT_NE(run_error({"--input", folder_.put("a.txt", "a")}).find("name one with --output"), std::string::npos);
  EXPECT_NE(run_error({"--output", "x"}).find("no input"), std::string::npos);
  EXPECT_NE(run_error({"--input", "a", "--output", "x", "--seed", "-1"}).find("--seed: '-1' is not a number"),
            std::string::npos);
  EXPECT_NE(run_error({"--input", "a", "--output", "x", "--threads", "2x"}).find("--threads: '2x'"), std::string::npos);
  EXPECT_NE(run_error({"check", "x"}).find("'check' is no command"), std::string::npos);
  EXPECT_NE(run_error({"verify"}).find("name one prepared set"), std::string::npos);
  EXPECT_NE(run_error({"verify", folder_.file("none")}).find("no prepared set here"), std::string::npos);
}

}  // namespace
}  // namespace scfa

#include "data/prepare_cli.h"

#include <gtest/gtest.h>

#include <sstream>

#include "data/prepare_fixture.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::PrepareErrorsTest;

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
  run({"export", set, "--format", "nanogpt", "--output", folder_.file("ng")});
  EXPECT_TRUE(fs::exists(folder_.file("ng/train.bin")));
}

TEST_F(PrepareCliTest, MakesSyntheticSequences) {
  const std::string set = folder_.file("set");
  const std::string made = run({"synthetic", "needle", "--length=64", "--sequences=20", "--val-sequences", "5",
                                "--vocabulary", "99", "--distance", "8-40", "--seed", "3", "--output", set});
  EXPECT_NE(made.find("20 sequences, 80 tokens that count in the loss"), std::string::npos) << made;
  EXPECT_NE(run({"verify", set}).find("all shards are as the manifest says"), std::string::npos);
  EXPECT_NE(run({"info", set, "--bigram"}).find("tokenizer synthetic, 99 entries"), std::string::npos);
  EXPECT_NE(run_error({"export", set, "--format", "nanogpt", "--output", folder_.file("ng")}).find("synthetic"),
            std::string::npos);
}

TEST_F(PrepareCliTest, Help) {
  for (const char* word : {"--help", "-h"}) {
    const std::string help = run({word});
    for (const char* part : {"--input", "--field", "--val-fraction", "verify DIR", "openwebtext2.jsonl.zst.tar"})
      EXPECT_NE(help.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(run({"--version"}).substr(0, 13), "prepare_data ");
}

// Every word of a command line is understood or refused, and what is refused changes nothing.
TEST_F(PrepareCliTest, EveryWordIsUnderstoodOrRefused) {
  const std::string input = folder_.put("a.txt", "some text"), set = folder_.file("set");
  run({"--input", input, "--output", set});
  const std::string before = testing::read_text(set + "/manifest.json");
  const auto expect = [&](std::vector<std::string> words, const std::string& part) {
    const std::string error = run_error(words);
    EXPECT_NE(error.find(part), std::string::npos) << "for " << words[0] << ": " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_EQ(testing::read_text(set + "/manifest.json"), before);
    EXPECT_EQ(folder_.entries(), 2u);
  };
  // The same with what would otherwise replace the set.
  const auto refused = [&](std::vector<std::string> words, const std::string& part) {
    std::vector<std::string> all = {"--overwrite", "--output", set, "--input", input};
    all.insert(all.end(), words.begin(), words.end());
    expect(all, part);
  };
  refused({"-threads", "3"}, "-threads: is not an option; did you mean \"threads\"");
  refused({"-seed=3"}, "-seed=3: is not an option");
  refused({"--outptu", "x"}, "--outptu: is not an option; did you mean \"output\"");
  refused({"--threads"}, "--threads: needs a value");
  refused({"--val-fraction"}, "--val-fraction: needs a value");
  refused({"--val-fraction", "--seed", "1"}, "--val-fraction: needs a value");
  refused({"--val-fraction", "1"}, "--val-fraction must be at least 0 and below 1, not 1");
  refused({"--val-fraction", "nan"}, "--val-fraction: must be a number from 0 to 1, not \"nan\"");
  refused({"--seed", "-1"}, "--seed: must be a whole number of at least 0, not \"-1\"");
  refused({"--threads", "2x"}, "--threads: must be a whole number from 0 to 1024, not \"2x\"");
  refused({"--threads", "-1"}, "--threads: must be a whole number from 0 to 1024, not \"-1\"");
  refused({"--threads=1025"}, "from 0 to 1024, not \"1025\"");
  refused({"--threads", "1e6"}, "from 0 to 1024, not \"1e6\"");
  refused({"--shard-tokens", "0"}, "--shard-tokens: must be a whole number from 1");
  refused({"--seed", "1", "stray"}, "'stray' is no command");
  refused({"--overwrite=no"}, "--overwrite: must be true or false, not \"no\"");
  refused({"--bigram"}, "--bigram: belongs to the command info");
  refused({"--format", "llmc"}, "--format: belongs to the command export");
  refused({"--pairs", "3"}, "--pairs: belongs to the command synthetic");
  expect({"synthetic", "--output", set, "--overwrite"}, "synthetic: name one task: mqar, induction or needle");
  expect({"synthetic", "chess", "--output", set, "--overwrite"}, "there is no task 'chess'");
  expect({"synthetic", "mqar", "--output", set, "--overwrite", "--distance", "9"}, "--distance: must be MIN-MAX");
  expect({"synthetic", "mqar", "--output", set, "--overwrite", "--distance", "x-9"}, "--distance: must be MIN-MAX");
  expect({"synthetic", "mqar", "--output", set, "--overwrite", "--pairs", "9999"}, "--pairs: must be from 1 to 192");
  expect({"synthetic", "mqar", "--output", set, "--overwrite", "--tokenizer", "bytes"},
         "--tokenizer: is not an option of the command synthetic");
  expect({"synthetic", "mqar"}, "name one with --output");
  expect({"--input", input, "--output", set, "--overwrite=false"}, "--overwrite replaces it");
  expect({"--input", "--output", set}, "--input: names nothing");
  expect({"info", set, "--output", "x"}, "--output: is not an option of the command info");
  expect({"verify", set, "--bigram"}, "--bigram: is not an option of the command verify");
  expect({"export", set, "--overwrite"}, "--overwrite: is not an option of the command export");
  expect({"export", set, "--format", "llmc"}, "export: name the folder to write with --output");
  expect({"info", set, set}, "info: name one prepared set");
  expect({"verify"}, "verify: name one prepared set");
  expect({"check", set}, "'check' is no command");
  expect({"verify", folder_.file("none")}, "no prepared set here");
  expect({"--output", "x"}, "no input");
  expect({"--input", input}, "name one with --output");
  expect({"--input", "none.txt", "--output", "x"}, "none.txt: no such file or folder");
}

}  // namespace
}  // namespace scfa

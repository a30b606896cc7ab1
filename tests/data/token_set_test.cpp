#include "data/token_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/data_support.h"
#include "data/output_file.h"
#include "data/verify.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::read_text;
using testing::TemporaryFolder;
using testing::write_token_set;

class TokenSetTest : public ::testing::Test {
 protected:
  // A set of 100 tokens in shards of 40, 40 and 20.
  TokenSetTest() : set_(folder_.file("set")) {
    std::vector<uint32_t> tokens(100);
    std::iota(tokens.begin(), tokens.end(), 1000u);
    tokens[50] = tokens[99] = 50256;
    write_token_set(set_, tokens, 40);
  }

  std::string shard(int index) const { return set_ + "/" + shard_name(Split::kTrain, static_cast<size_t>(index)); }
  void overwrite(const std::string& path, size_t at, const std::string& bytes) const {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << bytes;
  }
  void replace_in_manifest(const std::string& from, const std::string& to) const {
    std::string text = read_text(set_ + "/manifest.json");
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    std::ofstream(set_ + "/manifest.json") << text;
  }
  std::string open_error() const {
    return error_of([&] { TokenSet(set_, Split::kTrain); });
  }
  void expect_open_error(const std::string& part) const {
    const std::string error = open_error();
    EXPECT_NE(error.find(part), std::string::npos) << "the error is: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }

  TemporaryFolder folder_;
  std::string set_;
};

TEST_F(TokenSetTest, ReadsAcrossShards) {
  const TokenSet set(set_, Split::kTrain);
  ASSERT_EQ(set.tokens(), 100);
  EXPECT_EQ(set.manifest().train.shards.size(), 3u);
  EXPECT_EQ(set.manifest().train.documents(), 2);
  for (int64_t offset = 0; offset <= 100; ++offset)
    for (const int64_t count : {0, 1, 40, 41, 100}) {
      if (offset + count > 100) continue;
      std::vector<int32_t> tokens(static_cast<size_t>(count) + 1, -1);
      set.read(offset, count, tokens.data());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = offset + i;
        EXPECT_EQ(tokens[static_cast<size_t>(i)], at == 50 || at == 99 ? 50256 : 1000 + at);
      }
      EXPECT_EQ(tokens.back(), -1);
    }
}

TEST_F(TokenSetTest, RefusesARangeOutside) {
  const TokenSet set(set_, Split::kTrain);
  int32_t tokens[8];
  EXPECT_NE(error_of([&] { set.read(95, 6, tokens); }).find("tokens [95, 101) of the train split, which has 100"),
            std::string::npos);
  EXPECT_NE(error_of([&] { set.read(-1, 2, tokens); }), "");
  EXPECT_NE(error_of([&] { set.read(0, -1, tokens); }), "");
}

TEST_F(TokenSetTest, HeaderIsAsDocumented) {
  const std::string bytes = read_text(shard(2));
  ASSERT_EQ(bytes.size(), 64u + 2 * 20);
  EXPECT_EQ(bytes.substr(0, 8), "scfa-tok");
  EXPECT_EQ(bytes.substr(8, 8), std::string("\1\0\0\0\2\0\0\0", 8));
  EXPECT_EQ(bytes.substr(16, 8), std::string("\x14\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(24, 8), std::string("\x51\xC4\0\0\x50\xC4\0\0", 8));
  EXPECT_EQ(bytes.substr(32, 32), "gpt2" + std::string(28, '\0'));
  EXPECT_EQ(bytes.substr(64, 2), std::string("\x38\x04", 2));  // 1080
}

TEST_F(TokenSetTest, VerifyAcceptsAGoodSet) {
  EXPECT_EQ(verify_set(set_).train.tokens(), 100);
}

TEST_F(TokenSetTest, MissingSetOrShard) {
  EXPECT_NE(error_of([&] { TokenSet(folder_.file("none"), Split::kTrain); }).find("no prepared set here"),
            std::string::npos);
  fs::remove(shard(1));
  expect_open_error("train-00001.bin: cannot be opened: No such file or directory");
}

TEST_F(TokenSetTest, TruncatedShard) {
  fs::resize_file(shard(2), 64 + 2 * 20 - 1);
  expect_open_error("train-00002.bin: truncated: 103 bytes, 20 tokens take 104");
  fs::resize_file(shard(2), 63);
  expect_open_error("train-00002.bin: truncated: 63 bytes");
}

TEST_F(TokenSetTest, EmptyShard) {
  fs::resize_file(shard(0), 0);
  expect_open_error("train-00000.bin: the file is empty");
}

TEST_F(TokenSetTest, TooLongShard) {
  fs::resize_file(shard(2), 200);
  expect_open_error("train-00002.bin: too long: 200 bytes");
}

TEST_F(TokenSetTest, ForeignShard) {
  overwrite(shard(1), 0, "no-token");
  expect_open_error("train-00001.bin: not a token shard");
}

TEST_F(TokenSetTest, OtherVersion) {
  overwrite(shard(1), 8, "\2");
  expect_open_error("train-00001.bin: version 2 of the shard format");
}

TEST_F(TokenSetTest, MixedTypes) {
  overwrite(shard(1), 12, "\4");
  expect_open_error("train-00001.bin: mixed set: tokens of 4 bytes, the manifest says uint16");
}

TEST_F(TokenSetTest, MixedTokenizers) {
  const std::string other = folder_.file("bytes");
  write_token_set(other, std::vector<uint32_t>(40, 65), 40, "bytes");
  fs::copy_file(other + "/train-00000.bin", shard(1), fs::copy_options::overwrite_existing);
  expect_open_error("mixed set: made by tokenizer 'bytes' with 257 entries, the manifest says 'gpt2' with 50257");
}

TEST_F(TokenSetTest, OtherCount) {
  fs::copy_file(shard(2), shard(1), fs::copy_options::overwrite_existing);
  expect_open_error("train-00001.bin: holds 20 tokens, the manifest says 40");
}

TEST_F(TokenSetTest, SplitWithoutTokens) {
  EXPECT_NE(error_of([&] { TokenSet(set_, Split::kVal); }).find("the val split is empty; prepare it again"),
            std::string::npos);
}

TEST_F(TokenSetTest, CorruptTokens) {
  overwrite(shard(1), 64 + 2 * 5, "\xEE\xEE");
  const TokenSet set(set_, Split::kTrain);  // opening does not read the tokens
  int32_t tokens[100];
  EXPECT_NE(error_of([&] { set.read(0, 100, tokens); }).find("train-00001.bin: token 5 is 61166, not below"),
            std::string::npos);
  set.read(0, 45, tokens);  // the ones before are fine
}

// A shard that becomes shorter under a reader is an error, not a signal.
TEST_F(TokenSetTest, AShardThatShrinks) {
  const TokenSet set(set_, Split::kTrain);
  int32_t tokens[100];
  set.read(0, 100, tokens);
  fs::resize_file(shard(1), 64 + 2 * 10);
  set.read(0, 50, tokens);
  const std::string error = error_of([&] { set.read(0, 100, tokens); });
  EXPECT_NE(error.find("train-00001.bin: ends at byte 84; it had 144 bytes when it was opened"), std::string::npos)
      << error;
}

TEST_F(TokenSetTest, MoreShardsThanAProcessMayHaveOpenByDefault) {
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit few = before;
  few.rlim_cur = 40;
  const std::string many = folder_.file("many");
  write_token_set(many, std::vector<uint32_t>(60, 1), 1, "bytes");
  setrlimit(RLIMIT_NOFILE, &few);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(TokenSet(many, Split::kTrain).tokens(), 60); }), "");
  setrlimit(RLIMIT_NOFILE, &before);
}

// A set that is replaced between opening and checking is not corrupt: what was opened is what is checked and read.
TEST_F(TokenSetTest, VerifyChecksWhatWasOpened) {
  const TokenSet set(set_, Split::kTrain);
  for (const ShardInfo& shard : set.manifest().train.shards) {
    const std::string file = set_ + "/" + shard.file;
    test::write_text(file + ".new", std::string(1000, 'x'));
    std::filesystem::rename(file + ".new", file);
  }
  EXPECT_GT(verify_shards(set), 0);
}

TEST_F(TokenSetTest, VerifyFindsAFlippedBit) {
  overwrite(shard(1), 64 + 2 * 5, "\x01");
  EXPECT_EQ(open_error(), "");
  EXPECT_NE(error_of([&] { verify_set(set_); }).find("train-00001.bin: corrupt: its checksum"), std::string::npos);
}

TEST_F(TokenSetTest, VerifyComparesTheCounts) {
  Manifest manifest = read_manifest(set_);
  manifest.train.shards[1].documents = 3;
  test::write_text(set_ + "/manifest.json", to_json(manifest));
  EXPECT_NE(error_of([&] { verify_set(set_); }).find("train-00001.bin has 1 documents, the manifest says 3"),
            std::string::npos);
}

// Sets made before the manifest had a checksum; here its values can be changed one by one.
TEST_F(TokenSetTest, ManifestsOfVersionOne) {
  std::string text = read_text(set_ + "/manifest.json");
  text.replace(text.find("\"version\": 2"), 12, "\"version\": 1");
  const size_t checksum = text.rfind(",\n  \"xxh3\"");
  text.erase(checksum, text.rfind("\n}") - checksum);
  test::write_text(set_ + "/manifest.json", text);
  EXPECT_EQ(verify_set(set_).train.tokens(), 100);
  const auto expect = [&](const std::string& from, const std::string& to, const std::string& part) {
    replace_in_manifest(from, to);
    expect_open_error(part);
    test::write_text(set_ + "/manifest.json", text);
  };
  expect("\"scfa-tokens\"", "\"tokens\"", "'format' is 'tokens'");
  expect("\"version\": 1", "\"version\": 9", "version 9 of the format");
  expect("\"version\": 1", "\"version\": 2", "version 2 has no key 'xxh3'");
  expect("\"version\": 1", "\"xxh3\": \"\", \"version\": 1", "version 1 has a key 'xxh3'");
  expect("\"vocab_size\"", "\"vocab\"", "no key 'vocab_size'");
  expect("\"vocab_size\": 50257", "\"vocab_size\": 50257.5", "'vocab_size' must be a whole number");
  expect("\"vocab_size\": 50257", "\"vocab_size\": 4294967296", "'vocab_size' is 4294967296, too large");
  expect("\"uint16\"", "\"int8\"", "'dtype' must be uint16 or uint32, not 'int8'");
  expect("\"uint16\"", "\"" + std::string(1'000'000, 'x') + "\"", "(1000000 bytes)");
  expect("\"tokens\": 40", "\"tokens\": -40", "'splits.train.shards[0].tokens' must be a whole number");
  expect("\"tokens\": 40", "\"tokens\": 9223372036854775807", "'splits.train.shards[0].tokens' is 9223372036854775807");
  expect("\"tokens\": 40", "\"tokens\": 41", "'splits.train.tokens' is 100 but the shards add up to 101");
  expect("\"train-00001.bin\"", "\"../train-00001.bin\"", "must be the name of a file in the same folder");
  expect("\"xxh3\": \"", "\"xxh3\": \"z", "must be 16 hexadecimal digits");
  expect("\"seed\": 0", "\"seed\": 0, \"seed\": 0", "key \"seed\" is given twice");
  expect("\"seed\": 0", "\"seed\": " + std::string(200'000, '['), "nested more than");
  expect("{", "[", "not valid JSON");
}

TEST_F(TokenSetTest, AnyChangeOfTheManifestIsFound) {
  replace_in_manifest("\"fraction\": 0.0", "\"fraction\": 0.5");
  expect_open_error("manifest.json: corrupt: its checksum is not the one written");
}

TEST_F(TokenSetTest, WideTokens) {
  Manifest manifest = read_manifest(set_);
  manifest.vocab_size = 100'000;
  manifest.end_of_text = 99'999;
  manifest.dtype = TokenType::kU32;
  const std::string wide = folder_.file("wide");
  fs::create_directory(wide);
  const TokenLengths lengths(*make_tokenizer("bytes"));
  SplitWriter writer(manifest, lengths, wide, Split::kTrain, 100);
  writer.append(std::vector<uint32_t>{70'000, 1, 99'999}, 2);
  manifest.train = writer.finish();
  write_file(wide + "/manifest.json", to_json(manifest));
  EXPECT_EQ(testing::all_tokens(wide, Split::kTrain), (std::vector<int32_t>{70'000, 1, 99'999}));
}

TEST(OutputFile, SaysThatTheDiskIsFull) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  OutputFile file("/dev/full");
  EXPECT_EQ(error_of([&] { file.append("x", 1); }), "/dev/full: cannot be written: No space left on device");
}

}  // namespace
}  // namespace scfa

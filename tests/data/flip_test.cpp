// Every single bit of a prepared set counts: a flip is either found, or changes nothing that is read.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "data/data_support.h"
#include "data/prepare.h"
#include "data/verify.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::read_text;
using testing::TemporaryFolder;

// All that a run takes from a set: what is opened, checked and read.
std::string everything(const std::string& directory) {
  const Manifest manifest = read_manifest(directory);
  std::string all = to_json(manifest);
  for (const Split split : {Split::kTrain, Split::kVal}) {
    const TokenSet set(directory, split);
    verify_shards(set);
    std::vector<int32_t> tokens(static_cast<size_t>(set.tokens()));
    set.read(0, set.tokens(), tokens.data());
    all.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  }
  return all;
}

TEST(FlippedBits, AreFoundOrChangeNothing) {
  const TemporaryFolder folder;
  PrepareOptions options;
  std::string text;
  for (int i = 0; i < 60; ++i) text += concat("Line ", i * i, " of a text.\n");
  options.input.inputs = {folder.put("a.txt", text)};
  options.set.directory = folder.file("set");
  options.set.shard_tokens = 100;
  options.threads = 1;
  prepare(options);
  const std::string whole = everything(options.set.directory);
  std::mt19937 random(13);
  int found = 0, harmless = 0;
  for (const auto& entry : fs::directory_iterator(options.set.directory)) {
    const std::string path = entry.path().string(), good = read_text(path);
    const bool manifest = path.ends_with(kManifestFile);
    for (int i = 0; i < (manifest ? 500 : 60); ++i) {
      // Half of a shard's flips fall into its header.
      const size_t range = !manifest && i % 2 == 0 ? sizeof(ShardHeader) : good.size();
      const size_t bit = random() % (8 * range);
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ 1 << bit % 8);
      test::write_text(path, bad);
      try {
        ASSERT_TRUE(everything(options.set.directory) == whole)
            << path << ", bit " << bit << ": read as something else";
        ++harmless;
        EXPECT_TRUE(manifest) << path << ", bit " << bit << ": not found";
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(entry.path().filename().string()), std::string::npos) << error.what();
        ++found;
      }
    }
    test::write_text(path, good);
  }
  EXPECT_GT(found, 700);
  EXPECT_LT(harmless, 150);  // blanks between the manifest's values
  EXPECT_EQ(everything(options.set.directory), whole);
}

}  // namespace
}  // namespace scfa

// Putting folders in place: nothing is removed that the program did not write.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "data/data_support.h"
#include "data/output_file.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::read_text;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

class StagedFolderTest : public ::testing::Test {
 protected:
  // A folder with a file x and a folder sub with a file y, ready to be put at the target.
  void fill(const StagedFolder& staged, const std::string& text) const {
    write_file(staged.file("x"), text);
    fs::create_directory(staged.file("sub"));
    write_file(staged.file("sub/y"), text);
  }
  std::string only_entry_with(const std::string& part) const {
    std::string found;
    for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
      if (entry.path().filename().string().find(part) == std::string::npos) continue;
      EXPECT_EQ(found, "");
      found = entry.path().string();
    }
    return found;
  }

  TemporaryFolder folder_;
  std::string target_ = folder_.file("a");
  IsOurs ours_ = is_one_of({"x", "sub", "sub/y"});
};

TEST_F(StagedFolderTest, LeavesNothingUnlessCommitted) {
  {
    const StagedFolder staged(target_, ours_);
    fill(staged, "1");
    EXPECT_EQ(folder_.entries(), 1u);
    EXPECT_FALSE(fs::exists(target_));
  }
  EXPECT_EQ(folder_.entries(), 0u);
}

TEST_F(StagedFolderTest, IsPutInPlaceAndReplaced) {
  StagedFolder first(target_ + "/", ours_);
  fill(first, "1");
  first.commit();
  EXPECT_EQ(read_text(target_ + "/x"), "1");
  StagedFolder second(target_, ours_);
  fill(second, "2");
  EXPECT_EQ(second.replace(ours_), Names{});
  EXPECT_EQ(folder_.entries(), 1u);
  EXPECT_EQ(read_text(target_ + "/sub/y"), "2");
}

TEST_F(StagedFolderTest, AnEmptyFolderIsNoObstacle) {
  StagedFolder staged(target_, ours_);
  fill(staged, "1");
  fs::create_directory(target_);
  staged.commit();
  EXPECT_EQ(read_text(target_ + "/x"), "1");
  EXPECT_EQ(folder_.entries(), 1u);
}

// Whatever appears at the target in the meantime stays, and so do the new contents.
TEST_F(StagedFolderTest, WhatAppearsMeanwhileIsNotReplaced) {
  const auto put = [&](int what) {
    if (what == 0) folder_.put("a/thesis.txt", "precious");
    if (what == 1) folder_.put("a", "precious");
    if (what == 2) folder_.put("a/x", "precious");  // a name of ours does not make it ours
    if (what == 3) fs::create_symlink(folder_.file("nowhere"), target_);
  };
  for (int what = 0; what < 4; ++what) {
    std::string kept;
    {
      StagedFolder staged(target_, ours_);
      fill(staged, "new");
      put(what);
      const std::string error = error_of([&] { staged.commit(); });
      EXPECT_NE(error.find("a: something else was put there meanwhile; what was to be put there is complete in "),
                std::string::npos)
          << error;
    }
    kept = only_entry_with("a.complete-");
    EXPECT_EQ(read_text(kept + "/sub/y"), "new") << what;
    fs::remove_all(kept);
    EXPECT_EQ(folder_.entries(), 1u);
    if (what == 0) {
      EXPECT_EQ(read_text(target_ + "/thesis.txt"), "precious");
    }
    if (what == 1) {
      EXPECT_EQ(read_text(target_), "precious");
    }
    if (what == 2) {
      EXPECT_EQ(read_text(target_ + "/x"), "precious");
    }
    if (what == 3) {
      EXPECT_TRUE(fs::is_symlink(target_));
    }
    fs::remove_all(target_);
  }
}

TEST_F(StagedFolderTest, AFolderWithForeignFilesIsNotReplaced) {
  const auto expect_refused = [&](const std::string& what) {
    StagedFolder staged(target_, ours_);
    fill(staged, "new");
    const std::string error = error_of([&] { staged.replace(ours_); });
    EXPECT_NE(error.find("a: not replaced, because it holds " + what), std::string::npos) << error;
    fs::remove_all(only_entry_with("a.complete-"));
  };
  folder_.put("a/x", "old");
  folder_.put("a/sub/notes.txt", "precious");
  expect_refused("sub/notes.txt, which");
  EXPECT_EQ(read_text(target_ + "/sub/notes.txt"), "precious");
  fs::remove(target_ + "/sub/notes.txt");
  fs::create_symlink("x", target_ + "/sub/y");  // a link is not what we wrote, whatever its name
  expect_refused("sub/y, which");
  fs::remove(target_ + "/sub/y");
  fs::create_directory(target_ + "/mine");
  folder_.put("a/other", "precious");
  expect_refused("mine and 1 more, which");
  EXPECT_EQ(read_text(target_ + "/x"), "old");
}

TEST_F(StagedFolderTest, RemovingSparesWhatIsForeign) {
  for (const char* name : {"f/x", "f/sub/y", "f/sub/z", "f/deep/x", "elsewhere/x"}) folder_.put(name, "1");
  fs::create_directory_symlink(folder_.file("elsewhere"), folder_.file("f/link"));
  const std::string f = folder_.file("f");
  EXPECT_EQ(remove_our_files(f, is_one_of({"x", "sub", "sub/y", "link", "link/x"})),
            (Names{f + "/deep", f + "/link", f + "/sub/z"}));
  EXPECT_FALSE(fs::exists(f + "/x"));
  EXPECT_FALSE(fs::exists(f + "/sub/y"));
  EXPECT_TRUE(fs::exists(f + "/deep/x"));
  EXPECT_TRUE(fs::exists(folder_.file("elsewhere/x")));
  EXPECT_EQ(remove_our_files(folder_.file("none"), ours_), Names{});
}

TEST_F(StagedFolderTest, ALinkAtTheTargetStaysOne) {
  const std::string real = folder_.file("disk/real");
  for (const bool dangling : {true, false}) {
    if (dangling) fs::create_directory(folder_.file("disk"));
    fs::remove(target_);
    fs::create_symlink("middle", target_);
    if (dangling) fs::create_directory_symlink("disk/real/", folder_.file("middle"));
    StagedFolder staged(target_, ours_);
    fill(staged, dangling ? "1" : "2");
    staged.replace(ours_);
    EXPECT_TRUE(fs::is_symlink(target_));
    EXPECT_FALSE(fs::is_symlink(real));
    EXPECT_EQ(read_text(real + "/x"), dangling ? "1" : "2");
    EXPECT_EQ(read_text(target_ + "/x"), dangling ? "1" : "2");
  }
  fs::create_symlink("loop", folder_.file("loop"));
  EXPECT_NE(error_of([&] { follow_links(folder_.file("loop")); }).find("loop: too many symbolic links"),
            std::string::npos);
}

TEST_F(StagedFolderTest, StaleFoldersGoUnlessSomethingForeignIsInThem) {
  folder_.put("a.partial-AAAAAA/x", "1");
  folder_.put("a.partial-BBBBBB/x", "1");
  folder_.put("a.partial-BBBBBB/thesis.txt", "precious");
  folder_.put("a.partial-notes/x", "precious");
  folder_.put("ab.partial-AAAAAA/x", "another's");
  StagedFolder::remove_stale(target_, ours_);
  EXPECT_FALSE(fs::exists(folder_.file("a.partial-AAAAAA")));
  for (const char* kept :
       {"a.partial-BBBBBB/x", "a.partial-BBBBBB/thesis.txt", "a.partial-notes/x", "ab.partial-AAAAAA/x"})
    EXPECT_TRUE(fs::exists(folder_.file(kept))) << kept;
}

}  // namespace
}  // namespace scfa

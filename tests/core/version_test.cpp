#include "core/version.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "core/error.h"
#include "support/temp_dir.h"

namespace scfa::test {
namespace {

class GitCommit : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("git --version >/dev/null 2>&1 && cmake --version >/dev/null 2>&1") != 0)
      GTEST_SKIP() << "no git or no cmake here";
  }
  // Runs a shell command in the folder, apart from any repository and git settings around it.
  int run(const std::string& line) {
    return std::system(concat("cd '", folder_.file(""),
                              "' && unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE && export GIT_CONFIG_GLOBAL=/dev/null "
                              "GIT_CONFIG_NOSYSTEM=1 GIT_CEILING_DIRECTORIES=\"$(dirname \"$PWD\")\" && { ",
                              line, "; } >/dev/null 2>&1")
                           .c_str());
  }
  // The commit in the file that a build writes.
  std::string written() {
    EXPECT_EQ(
        run(concat("cmake -DSOURCE_DIR=. -DOUTPUT=git_commit.cpp -P '", SCFA_SOURCE_DIR, "/cmake/git_commit.cmake'")),
        0);
    const std::string text = read_text(folder_.file("git_commit.cpp")), before = "return \"";
    const size_t begin = text.find(before) + before.size();
    return text.substr(begin, text.find('"', begin) - begin);
  }
  TempDir folder_;
};

TEST_F(GitCommit, SaysWhetherTheSourceHasChanges) {
  EXPECT_EQ(written(), "unknown");
  ASSERT_EQ(run("git init -q"), 0);
  EXPECT_EQ(written(), "unknown");  // there is no commit yet
  ASSERT_EQ(run("mkdir src && echo 1 > src/a.cpp && echo 1 > notes && git add src notes && "
                "git -c user.name=x -c user.email=x commit -qm x"),
            0);
  const std::string commit = written();
  EXPECT_EQ(commit.size(), 12u) << commit;
  EXPECT_EQ(commit.find_first_not_of("0123456789abcdef"), std::string::npos) << commit;
  ASSERT_EQ(run("echo 2 > notes"), 0);  // which no program is made of
  EXPECT_EQ(written(), commit);
  ASSERT_EQ(run("echo 2 > src/a.cpp"), 0);
  EXPECT_EQ(written(), commit + "-dirty");
  ASSERT_EQ(run("echo 1 > src/a.cpp && echo 1 > src/new.cpp"), 0);
  EXPECT_EQ(written(), commit + "-dirty");
}

TEST(Version, ThisBuildHasACommitOrSaysThatItHasNone) {
  const std::string commit = git_commit();
  EXPECT_TRUE(commit == "unknown" || commit.find_first_not_of("0123456789abcdef") >= 12) << commit;
  EXPECT_TRUE(commit == "unknown" || commit.size() == 12 || commit.substr(12) == "-dirty") << commit;
}

TEST_F(GitCommit, AFileThatSaysSoAlreadyIsLeftAlone) {
  written();
  ASSERT_EQ(run("touch -d '2001-01-01' git_commit.cpp"), 0);
  written();
  EXPECT_EQ(run("test git_commit.cpp -ot '" SCFA_SOURCE_DIR "/cmake/git_commit.cmake'"), 0);
}

}  // namespace
}  // namespace scfa::test

#include "data/folder_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>
#include <vector>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

// Another process that holds a folder until it is told to let go, or killed.
class Holder {
 public:
  explicit Holder(const std::string& folder) {
    int ready[2], go[2];
    if (::pipe(ready) != 0 || ::pipe(go) != 0) return;
    pid_ = ::fork();
    char byte = 'y';
    if (pid_ == 0) {
      ::close(go[1]);
      {
        const FolderLock lock(folder);
        [[maybe_unused]] const ssize_t said = ::write(ready[1], &byte, 1), told = ::read(go[0], &byte, 1);
      }
      _exit(0);
    }
    ::close(ready[1]), ::close(go[0]);
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    go_ = go[1];
  }
  ~Holder() { release(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  pid_t pid() const { return pid_; }
  void release() {
    if (pid_ < 0) return;
    ::close(go_);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    release();
  }

 private:
  pid_t pid_ = -1;
  int go_ = -1;
};

TEST(FolderLock, OneProcessAtATime) {
  const test::TempDir temp;
  const std::string folder = temp / "runs/mine";
  Holder holder(folder);
  const std::string who = concat("process ", holder.pid(), " on ");
  expect_error([&] { const FolderLock lock(folder); }, {folder.c_str(), "is being written by another", who.c_str()});
  expect_error([&] { FolderLock::check_free(folder); }, {folder.c_str(), who.c_str()});
  EXPECT_NO_THROW(FolderLock::check_free(temp / "runs/other"));
  EXPECT_NO_THROW(FolderLock(temp / "runs/other"));
  holder.release();
  EXPECT_FALSE(fs::exists(temp / "runs/.mine.lock"));
  EXPECT_NO_THROW(FolderLock::check_free(folder));
  EXPECT_NO_THROW(FolderLock lock(folder));
  EXPECT_FALSE(fs::exists(folder));  // the folder is none of the lock's business
}

TEST(FolderLock, GoesWithAProcessThatIsKilled) {
  const test::TempDir temp;
  const std::string folder = temp / "mine";
  Holder holder(folder);
  holder.kill();
  EXPECT_TRUE(fs::exists(temp / ".mine.lock"));  // the file stays; nobody holds it
  EXPECT_NO_THROW(FolderLock::check_free(folder));
  {
    const FolderLock lock(folder);
    EXPECT_EQ(test::read_text(temp / ".mine.lock").substr(0, 8), "process ");
  }
  EXPECT_FALSE(fs::exists(temp / ".mine.lock"));
}

TEST(FolderLock, IsTheSameHoweverTheFolderIsNamed) {
  const test::TempDir temp;
  fs::create_directories(temp / "runs/mine");
  fs::create_directory_symlink(temp / "runs/mine", temp / "link");
  const Holder holder(temp / "runs/mine");
  for (const char* name : {"runs/mine/", "runs/./mine", "runs/../runs/mine//", "runs/mine/.", "link", "link/"}) {
    EXPECT_THROW(FolderLock lock(temp / name), Error) << name;
    EXPECT_THROW(FolderLock::check_free(temp / name), Error) << name;
  }
}

TEST(FolderLock, OneOfManyThatTryAtOnceGetsIt) {
  const test::TempDir temp;
  for (int round = 0; round < 4; ++round) {
    std::atomic<int> inside{0}, most{0}, got{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        for (int attempt = 0; attempt < 8; ++attempt) try {
            const FolderLock lock(temp / "mine");
            most = std::max<int>(most, ++inside);
            ++got;
            --inside;
          } catch (const Error&) {
          }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(most, 1);
    EXPECT_GT(got, 0);
  }
}

TEST(FolderLock, LookingAtALockKeepsNobodyOut) {
  const test::TempDir temp;
  std::atomic<bool> done{false};
  std::thread looker([&] {
    while (!done) try {
        FolderLock::check_free(temp / "mine");
      } catch (const Error&) {
      }
  });
  for (int i = 0; i < 50; ++i) EXPECT_NO_THROW(FolderLock lock(temp / "mine"));
  done = true;
  looker.join();
}

TEST(FolderLock, ThatCannotBeMadeIsAnError) {
  const test::TempDir temp;
  const std::string file = temp.put("file", ""), below = file + "/mine";
  expect_error([&] { const FolderLock lock(below); }, {file.c_str(), "cannot be created"});
  fs::create_symlink(temp / "elsewhere", temp / ".mine.lock");  // not followed: nobody's file is overwritten
  expect_error([&] { const FolderLock lock(temp / "mine"); }, {".mine.lock", "cannot be written"});
  EXPECT_FALSE(fs::exists(temp / "elsewhere"));
}

}  // namespace
}  // namespace scfa

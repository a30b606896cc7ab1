// What the system and the folders around a set can do to its preparation: nothing that is there is lost, and nothing
// half-done stays.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "data/prepare_fixture.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::PrepareErrorsTest;

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
  const std::string kept = testing::read_text(folder_.file("set/manifest.json"));
  folder_.put("set/nanogpt/notes.txt", "precious");  // not of the set: nothing of it is replaced
  EXPECT_NE(error_of([&] { prepare(made); })
                .find("set: not replaced, because it also holds nanogpt/notes.txt, which "
                      "is not of the set"),
            std::string::npos);
  folder_.put("set/train-00007.bin", "a shard's name, but the manifest does not list it");
  EXPECT_NE(error_of([&] { prepare(made); }).find("also holds nanogpt/notes.txt and 1 more, which are not"),
            std::string::npos);
  EXPECT_EQ(testing::read_text(folder_.file("set/manifest.json")), kept);
  EXPECT_EQ(testing::read_text(folder_.file("set/nanogpt/notes.txt")), "precious");
  EXPECT_EQ(folder_.entries(), 2u);
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

// What comes into the set in the last moment stays, and is named.
TEST_F(PrepareErrorsTest, ForeignFilesOfTheLastMomentStay) {
  PrepareOptions made = options(folder_.put("a.txt", "some text"));
  made.set.directory = folder_.file("set");
  prepare(made);
  const std::string before = testing::read_text(folder_.file("set/manifest.json"));
  made.set.overwrite = true;
  const auto put = [&](const PrepareProgress&) { folder_.put("set/thesis.txt", "precious"); };
  const std::string error = error_of([&] { prepare(made, put); });
  EXPECT_NE(error.find("set: not replaced, because it holds thesis.txt"), std::string::npos) << error;
  EXPECT_EQ(testing::read_text(folder_.file("set/thesis.txt")), "precious");
  EXPECT_EQ(testing::read_text(folder_.file("set/manifest.json")), before);
}

TEST_F(PrepareErrorsTest, AFolderThatAppearsMeanwhileIsNotReplaced) {
  PrepareOptions made = options(folder_.put("a.txt", "some text"));
  const auto put = [&](const PrepareProgress&) { folder_.put("out/set/thesis.txt", "precious"); };
  for (const bool overwrite : {false, true}) {
    made.set.overwrite = overwrite;
    const std::string error = error_of([&] { prepare(made, put); });
    EXPECT_NE(error.find("out/set: something else was put there meanwhile; what was to be put there is complete in "),
              std::string::npos)
        << error;
    EXPECT_EQ(testing::read_text(folder_.file("out/set/thesis.txt")), "precious");
    const std::string kept = error.substr(error.rfind(' ') + 1);
    EXPECT_NO_THROW(verify_set(kept));
    fs::remove_all(folder_.file("out"));
  }
}

TEST_F(PrepareErrorsTest, ACountOfThreadsThatCannotBe) {
  PrepareOptions made = options(folder_.put("a.txt", "some text"));
  for (const int threads : {-1, 1025, 1'000'000}) {
    made.threads = threads;
    expect_error(made, concat("--threads must be from 0 (one per core) to 1024, not ", threads));
  }
}

// Runs body in a process of its own as a user without rights, who runs nothing else: limits count a user's processes.
// What it throws is its result.
template <class Body>
std::string error_without_rights(const Body& body) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool lowered = ::geteuid() != 0 || ::setuid(static_cast<uid_t>(1'000'000 + ::getpid())) == 0;
    const std::string error = lowered ? error_of(body) : "cannot become another user";
    _exit(::write(ends[1], error.data(), error.size()) == static_cast<ssize_t>(error.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string error;
  char block[4096];
  for (ssize_t got; (got = ::read(ends[0], block, sizeof block)) > 0;) error.append(block, static_cast<size_t>(got));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "ended by signal " << WTERMSIG(status);
  return error;
}

TEST_F(PrepareErrorsTest, AThreadThatCannotBeStarted) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs a user who runs nothing else";
  PrepareOptions made = options(folder_.put("a.txt", "some text"));
  fs::permissions(folder_.file(""), fs::perms::all);
  for (const int allowed : {1, 2, 6}) {
    const std::string error = error_without_rights([&] {
      const rlimit few{static_cast<rlim_t>(allowed), static_cast<rlim_t>(allowed)};
      setrlimit(RLIMIT_NPROC, &few);
      made.threads = 8;
      prepare(made);
    });
    EXPECT_NE(error.find(concat("only ", allowed - 1, " of 9 threads could be started: Resource temporarily")),
              std::string::npos)
        << error;
    EXPECT_TRUE(fs::is_empty(folder_.file("out")));
    fs::remove_all(folder_.file("out"));
  }
}

TEST_F(PrepareErrorsTest, FoldersWithoutRightsAreNamed) {
  const std::string input = folder_.put("a.txt", "some text");
  folder_.put("in/a.txt", "a");
  folder_.put("in/locked/b.txt", "b");
  fs::create_directories(folder_.file("ro/deep"));
  fs::permissions(folder_.file(""), fs::perms::all);
  fs::permissions(folder_.file("in/locked"), fs::perms::none);
  fs::permissions(folder_.file("ro"), fs::perms(0555));
  fs::permissions(folder_.file("ro/deep"), fs::perms(0555));
  const auto expect = [&](const PrepareOptions& made, const std::string& part) {
    const std::string error = error_without_rights([&] { prepare(made); });
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_EQ(error.find("XXXXXX"), std::string::npos) << error;
  };
  PrepareOptions made = options(folder_.file("in"));
  expect(made, "in/locked: cannot be listed: Permission denied");
  made = options(input);
  made.set.directory = folder_.file("ro/set");
  expect(made, "/ro: cannot be written: Permission denied");
  made.set.directory = folder_.file("ro/new/set");
  expect(made, "ro/new: cannot be created: Permission denied");
  const std::string error = error_without_rights([&] { const StagedFolder staged(folder_.file("ro/deep/x"), {}); });
  EXPECT_NE(error.find("ro/deep: cannot be written: Permission denied"), std::string::npos) << error;
  for (const char* name : {"in/locked", "ro", "ro/deep"}) fs::permissions(folder_.file(name), fs::perms::owner_all);
}

TEST_F(PrepareErrorsTest, NamesThatCannotBe) {
  const std::string input = folder_.put("a.txt", "some text"), name(300, 'n');
  expect_error(options(folder_.file(name)), "cannot be opened: File name too long");
  fs::create_symlink("loop.txt", folder_.file("loop.txt"));
  expect_error(options(folder_.file("loop.txt")), "loop.txt: cannot be opened: Too many levels of symbolic links");
  PrepareOptions made = options(input);
  made.set.directory = folder_.file("loop.txt");
  EXPECT_NE(error_of([&] { prepare(made); }).find("loop.txt: too many symbolic links"), std::string::npos);
  made.set.directory = folder_.file(name);
  EXPECT_NE(error_of([&] { prepare(made); }).find("File name too long"), std::string::npos);
  made.set.directory = folder_.file("a.txt/set");
  EXPECT_NE(error_of([&] { prepare(made); }).find("a.txt: cannot be created: "), std::string::npos);
}

// Links in folders: those to files are read, the others could lead in circles.
TEST_F(PrepareErrorsTest, LinksInFolders) {
  folder_.put("in/sub/a.txt", "text");
  fs::create_directory_symlink("..", folder_.file("in/sub/up"));
  fs::create_symlink("nowhere.txt", folder_.file("in/broken.txt"));
  fs::create_symlink("loop.txt", folder_.file("in/loop.txt"));
  fs::create_symlink("sub/a.txt", folder_.file("in/z.txt"));
  PrepareOptions made = options(folder_.file("in"));
  const PrepareResult result = prepare(made);
  EXPECT_EQ(result.manifest.train.documents() + result.manifest.val.documents(), 2);
  EXPECT_EQ(result.skipped_links, 3);
}

}  // namespace
}  // namespace scfa

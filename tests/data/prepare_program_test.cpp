// prepare_data as a user meets it: signals, closed descriptors, full disks, terminals, two at a time.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "data/data_support.h"
#include "data/verify.h"

extern "C" void __asan_init() __attribute__((weak));  // there in a build with the address sanitizer

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::read_text;
using testing::TemporaryFolder;

class PrepareProgramTest : public ::testing::Test {
 protected:
  // Runs a line of shell in the folder, in which $P is the program; out.txt and err.txt are what it says there.
  int shell(const std::string& line) const {
    const int status =
        std::system(concat("cd '", folder_.file(""), "' && P='", SCFA_BINARY_DIR, "/prepare_data'; ", line).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string err() const { return read_text(folder_.file("err.txt")); }
  void expect_one_line(const std::string& part) const {
    const std::string text = err();
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(text.substr(0, 14), "prepare_data: ") << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  std::vector<std::string> left() const {  // that is not an input or an output of a test
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
      const std::string name = entry.path().filename().string();
      if (!name.ends_with(".txt") && !name.ends_with(".zst") && name != "pipe") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TemporaryFolder folder_;
  std::string input_ = folder_.put("a.txt", "Call me Ishmael. Some years ago, never mind how long precisely.\n");
};

TEST_F(PrepareProgramTest, EverySignalEndsABlockedReadWithItsCode) {
  ASSERT_EQ(shell("mkfifo pipe"), 0);
  for (const auto& [name, code] : {std::pair{"INT", 130}, {"TERM", 143}, {"HUP", 129}, {"USR2", 140}})
    // A pipe that nobody has opened for writing, and one that is open, but nobody writes.
    for (const char* input : {"--input pipe", "--input - <&3"}) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_EQ(shell(concat(input[8] == '-' ? "exec 3<>pipe; " : "", "timeout --preserve-status -s ", name, " 0.3 $P ",
                             "--output out/set ", input, " 2>err.txt")),
                code)
          << name << ": " << err();
      EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 20);
      EXPECT_NE(err().find(concat("prepare_data: SIG", name, ": stopping; nothing will be written\n")),
                std::string::npos)
          << err();
      EXPECT_NE(err().find("interrupted\n"), std::string::npos) << err();
      EXPECT_TRUE(fs::is_empty(folder_.file("out")));
    }
}

TEST_F(PrepareProgramTest, ClosedDescriptorsGetIntoNoFile) {
  ASSERT_EQ(shell("$P --input a.txt --output reference >out.txt"), 0);
  int number = 0;
  for (const char* closed : {">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-"}) {
    const std::string set = concat("set", number++);
    const bool out_closed = std::string(closed).find(" >&-") != std::string::npos || closed[0] == '>';
    EXPECT_EQ(shell(concat("{ $P --input a.txt --output ", set, " ; } ", ">out.txt 2>err.txt ", closed)),
              out_closed ? 1 : 0)
        << closed;
    for (const char* file : {"train-00000.bin", "val-00000.bin", "manifest.json"})
      EXPECT_EQ(read_text(folder_.file(set + "/" + file)), read_text(folder_.file(std::string("reference/") + file)))
          << closed << " " << file;
  }
}

TEST_F(PrepareProgramTest, OutputThatCannotBeWrittenIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  ASSERT_EQ(shell("$P --input a.txt --output set >out.txt"), 0);
  for (const char* words :
       {"info set", "info set --bigram", "verify set", "--help", "--version", "export set --format llmc --output ex"}) {
    EXPECT_EQ(shell(concat("$P ", words, " >/dev/full 2>err.txt")), 1) << words;
    expect_one_line("standard output: cannot be written: No space left on device");
    fs::remove_all(folder_.file("ex"));
  }
  EXPECT_EQ(shell("$P info set >&- 2>err.txt"), 1);
  expect_one_line("standard output: cannot be written");
}

TEST_F(PrepareProgramTest, OneWriterAtATime) {
  ASSERT_EQ(shell("mkfifo pipe; mkdir real; ln -s real link"), 0);
  for (const char* other : {"real", "link", "./real/"}) {
    EXPECT_EQ(shell(concat("$P --input pipe --output real >out.txt 2>first.txt & "
                           "for i in 1 2 3 4 5 6 7 8 9; do [ -e .real.lock ] && break; sleep 0.2; done; "
                           "$P --input a.txt --output ",
                           other, " --overwrite 2>err.txt; code=$?; cat a.txt >pipe; wait $! || exit 9; exit $code")),
              1)
        << read_text(folder_.file("first.txt"));
    expect_one_line(": is being written by another process (process ");
    EXPECT_NO_THROW(verify_set(folder_.file("real")));
    EXPECT_EQ(left(), (std::vector<std::string>{"link", "real"}));
    fs::remove_all(folder_.file("real"));
    fs::create_directory(folder_.file("real"));
  }
}

TEST_F(PrepareProgramTest, WhatIsKilledLeavesNoSetAndTheNextOneCleansUp) {
  std::string text;
  for (int i = 0; text.size() < 6'000'000; ++i) text += concat("Line ", i, " of a text that is long enough.\n");
  test::write_text(input_, text);
  for (int i = 0; i < 6; ++i) {
    shell(concat("exec 2>/dev/null; timeout -s KILL 0.", 10 + 7 * i,
                 " $P --input a.txt --output set --shard-tokens 50000 --threads 1 >out.txt; true"));
    if (fs::exists(folder_.file("set"))) {
      EXPECT_NO_THROW(verify_set(folder_.file("set")));
      fs::remove_all(folder_.file("set"));
    }
    for (const std::string& name : left()) EXPECT_TRUE(name.starts_with("set.partial-") || name == ".set.lock") << name;
  }
  EXPECT_EQ(shell("$P --input a.txt --output set --threads 1 >out.txt"), 0);
  EXPECT_EQ(left(), (std::vector<std::string>{"set"}));
}

TEST_F(PrepareProgramTest, LowMemoryIsNotCalledCorruptData) {
  if (&__asan_init != nullptr) GTEST_SKIP() << "the address sanitizer takes all addresses";
  // A frame with a window of 1 GiB and one block of five bytes as they are.
  folder_.put("wide.txt.zst", std::string("\x28\xB5\x2F\xFD\x00\xA0\x29\x00\x00hello", 14));
  EXPECT_EQ(shell("$P --input wide.txt.zst --tokenizer bytes --output set >out.txt 2>err.txt"), 0) << err();
  EXPECT_EQ(shell("export OMP_NUM_THREADS=1; ulimit -v 1000000; $P --input wide.txt.zst --tokenizer bytes --threads 1 "
                  "--output small 2>err.txt"),
            1);
  expect_one_line("wide.txt.zst: not enough memory to decompress it");
  EXPECT_EQ(left(), (std::vector<std::string>{"set"}));
}

// The standard error is a terminal, which becomes narrower (or wider) once something has been written to it.
TEST_F(PrepareProgramTest, TheProgressLineFitsTheTerminal) {
  std::string text;
  for (int i = 0; text.size() < 2'000'000; ++i) text += concat("Line ", i, " of a text that is long enough.\n");
  test::write_text(input_, text);
  for (const auto& [before, after] : {std::pair<unsigned short, unsigned short>{45, 45}, {100, 20}, {20, 100}}) {
    int ours = -1, theirs = -1;
    const winsize first{24, before, 0, 0}, then{24, after, 0, 0};
    ASSERT_EQ(openpty(&ours, &theirs, nullptr, nullptr, &first), 0);
    const std::string terminal = ttyname(theirs);
    std::string seen;
    size_t resized = 0;
    std::thread reader([&] {
      char block[4096];
      for (ssize_t got; (got = ::read(ours, block, sizeof block)) > 0;) {
        seen.append(block, static_cast<size_t>(got));
        if (resized == 0 && seen.find("MB/s") != std::string::npos)
          ioctl(ours, TIOCSWINSZ, &then), resized = seen.size();
      }
    });
    EXPECT_EQ(shell(concat("(cat a.txt; sleep 0.4; cat a.txt; sleep 0.4; cat a.txt) | "
                           "$P --input - --tokenizer bytes --output set --overwrite >out.txt 2>",
                           terminal)),
              0);
    ::close(theirs);
    reader.join();
    ::close(ours);
    EXPECT_NE(seen.find("MB/s", resized), std::string::npos) << seen;
    EXPECT_EQ(seen.find('\n'), std::string::npos) << seen;
    size_t start = 0;  // of what stands in one row
    for (size_t at = 0; at <= seen.size(); ++at) {
      if (at < seen.size() && seen[at] != '\r' && seen[at] != '\033') continue;
      const size_t columns = start > resized ? after : before;
      EXPECT_LE(at - start, columns + 2) << seen.substr(start, at - start);  // "[K" of the escape before it
      start = at + 1;
    }
  }
}

}  // namespace
}  // namespace scfa

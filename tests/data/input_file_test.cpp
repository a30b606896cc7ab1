#include "data/input_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "core/signals.h"
#include "data/checksum.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace scfa {
namespace {

using test::expect_error;

std::string make_fifo(const test::TempDir& folder) {
  const std::string path = folder / "fifo";
  EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
  return path;
}

// As if a signal came a moment from now.
class StopSoon {
 public:
  StopSoon()
      : thread_([] {
          std::this_thread::sleep_for(std::chrono::milliseconds(150));
          request_stop(SIGTERM);
        }) {}
  ~StopSoon() {
    thread_.join();
    reset_signals();
  }
  StopSoon(const StopSoon&) = delete;
  StopSoon& operator=(const StopSoon&) = delete;

 private:
  std::thread thread_;
};

TEST(ReadTextFile, GivesTheWholeOfAFile) {
  const test::TempDir folder;
  const std::string text = std::string(200'000, 'x') + '\0' + "end";
  EXPECT_EQ(read_text_file(folder.put("a", text), 1 << 20), text);
  EXPECT_EQ(read_text_file(folder.put("empty", ""), 0), "");
  EXPECT_EQ(read_text_file(folder.put("exact", "12345"), 5), "12345");
}

TEST(ReadTextFile, NamesWhatCannotBeRead) {
  const test::TempDir folder;
  const std::string none = folder / "none", here = folder / ".", big = folder.put("big", "123456");
  const std::string below = big + "/x";
  expect_error([&] { read_text_file(none, 10); }, {none.c_str(), "cannot be opened: No such file"});
  expect_error([&] { read_text_file(below, 10); }, {below.c_str(), "Not a directory"});
  expect_error([&] { read_text_file(here, 10); }, {here.c_str(), "is a folder, not a file"});
  expect_error([&] { read_text_file(big, 5); }, {big.c_str(), "more than the 5 bytes"});
  expect_error([&] { read_text_file("/dev/zero", 1'000'000); }, {"/dev/zero", "more than the 1000000 bytes"});
  if (::geteuid() == 0) return;
  ::chmod(big.c_str(), 0);
  expect_error([&] { read_text_file(big, 10); }, {big.c_str(), "Permission denied"});
}

TEST(ReadTextFile, ReadsANamedPipeThatIsWrittenLaterAndInParts) {
  const test::TempDir folder;
  const std::string fifo = make_fifo(folder);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const int fd = ::open(fifo.c_str(), O_WRONLY);
    for (const char* part : {"one ", "two ", "three"}) {
      EXPECT_GT(::write(fd, part, std::strlen(part)), 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    ::close(fd);
  });
  EXPECT_EQ(read_text_file(fifo, 100), "one two three");
  writer.join();
}

TEST(ReadTextFile, APipeWhoseWriterIsGoneIsEmpty) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[1]);
  const StopSoon in_case_it_waits;
  EXPECT_EQ(read_text_file(concat("/dev/fd/", ends[0]), 100), "");
  ::close(ends[0]);
}

TEST(ReadTextFile, ASignalEndsWaitingForANamedPipe) {
  const test::TempDir folder;
  const std::string fifo = make_fifo(folder);
  {
    const StopSoon stop;  // nobody writes
    EXPECT_THROW(read_text_file(fifo, 100), Interrupted);
  }
  const int writer = ::open(fifo.c_str(), O_RDWR);  // opened, and silent
  {
    const StopSoon stop;
    expect_error([&] { read_text_file(fifo, 100); }, {fifo.c_str(), "interrupted"});
  }
  ::close(writer);
}

TEST(ReadStandardInput, EndsWithItsWriter) {
  const int saved = ::dup(STDIN_FILENO);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "text", 4), 4);
  ::close(ends[1]);
  ::dup2(ends[0], STDIN_FILENO);
  ::close(ends[0]);
  EXPECT_EQ(read_standard_input(100), "text");
  EXPECT_EQ(read_standard_input(100), "");  // not again
  ::dup2(saved, STDIN_FILENO);
  ::close(saved);
}

TEST(InputFile, ReadsAnyPart) {
  const test::TempDir folder;
  const InputFile file(folder.put("a", "0123456789"));
  EXPECT_EQ(file.size(), 10);
  char part[4] = {};
  file.read(3, part, 3);
  EXPECT_STREQ(part, "345");
  file.read(10, part, 0);
  EXPECT_THROW(file.read(8, part, 3), Error);
  InputFile moved(folder.put("b", "abc"));
  const InputFile target(std::move(moved));
  target.read(0, part, 3);
  EXPECT_STREQ(part, "abc");
}

TEST(InputFile, OfAFileThatShrinksIsAnError) {
  const test::TempDir folder;
  const std::string path = folder.put("a", std::string(100'000, 'x'));
  const InputFile file(path);
  ::truncate(path.c_str(), 5000);
  std::vector<char> bytes(100'000);
  file.read(0, bytes.data(), 5000);
  expect_error([&] { file.read(0, bytes.data(), 100'000); },
               {path.c_str(), "ends at byte 5000", "100000 bytes when it was opened"});
  expect_error([&] { checksum_of_file(file, 0, file.size()); }, {path.c_str(), "ends at byte 5000"});
}

TEST(InputFile, TakesRegularFilesOnly) {
  const test::TempDir folder;
  const std::string fifo = make_fifo(folder), here = folder / ".", none = folder / "none";
  expect_error([&] { const InputFile file(fifo); }, {fifo.c_str(), "is not a regular file"});
  expect_error([&] { const InputFile file(here); }, {here.c_str(), "is a folder"});
  expect_error([&] { const InputFile file(none); }, {none.c_str(), "No such file"});
  expect_error([&] { const InputFile file("/dev/null"); }, {"/dev/null", "is not a regular file"});
}

TEST(ChecksumOfFile, IsThatOfTheBytes) {
  const test::TempDir folder;
  std::string bytes(3'000'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 1000);
  const InputFile file(folder.put("a", bytes));
  int64_t last = 0;
  EXPECT_EQ(checksum_of_file(file, 0, file.size(), [&](int64_t done) { last = done; }),
            checksum_of(bytes.data(), bytes.size()));
  EXPECT_EQ(last, file.size());
  EXPECT_EQ(checksum_of_file(file, 64, 2'000'001), checksum_of(bytes.data() + 64, 1'999'937));
  EXPECT_EQ(checksum_of_file(file, 5, 5), checksum_of(bytes.data(), 0));
  request_stop(SIGTERM);
  EXPECT_THROW(checksum_of_file(file, 0, file.size()), Interrupted);
  reset_signals();
}

}  // namespace
}  // namespace scfa

#include "core/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>

#include "core/error.h"
#include "core/signals.h"
#include "support/run_program.h"
#include "support/sanitized.h"

namespace scfa {
namespace {

using test::execute;
using test::Outcome;

struct Ended {
  int code;
  std::string err;
};
Ended end_of(const std::function<int()>& body) {
  testing::internal::CaptureStderr();
  const int code = run_program("tool", body);
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(RunProgram, GivesTheExitCodeOfItsBody) {
  EXPECT_EQ(end_of([] { return 0; }).code, 0);
  EXPECT_EQ(end_of([] { return 143; }).code, 143);
}

TEST(RunProgram, EveryErrorIsOneLineThatNamesTheProgramOnce) {
  const auto text_of = [](const std::function<int()>& body) {
    const Ended ended = end_of(body);
    EXPECT_EQ(ended.code, 1);
    return ended.err;
  };
  EXPECT_EQ(text_of([]() -> int { fail("x: is wrong"); }), "tool: x: is wrong\n");
  EXPECT_EQ(text_of([]() -> int { fail("tool: x: is wrong"); }), "tool: x: is wrong\n");
  EXPECT_EQ(text_of([]() -> int { fail("two\nlines\r"); }), "tool: two lines \n");
  EXPECT_EQ(text_of([]() -> int { throw std::bad_alloc(); }), "tool: not enough memory\n");
  EXPECT_EQ(text_of([]() -> int {
              std::filesystem::create_directory("/proc/none/x");
              return 0;
            }),
            "tool: /proc/none/x: No such file or directory\n");
  const std::string refused =
      text_of([]() -> int { throw std::system_error(EAGAIN, std::generic_category(), "thread"); });
  EXPECT_NE(refused.find("Resource temporarily unavailable"), std::string::npos) << refused;
}

TEST(RunProgram, WhatASignalInterruptedExitsWithItsCode) {
  reset_signals();
  const Ended ended = end_of([]() -> int {
    request_stop(SIGTERM);
    throw Interrupted("x: reading was interrupted");
  });
  EXPECT_EQ(ended.code, 128 + SIGTERM);
  EXPECT_EQ(ended.err, "tool: x: reading was interrupted\n");
  const Ended failed = end_of([]() -> int { fail("the last save failed"); });
  EXPECT_EQ(failed.code, 1);  // an error stays one, signal or not
  reset_signals();
}

// Programs that print something and do nothing else.
const std::vector<std::vector<std::string>> kTalkers = {
    {"train", "--help"},    {"train", "--print-config-docs"}, {"generate", "--help"}, {"generate", "--version"},
    {"evaluate", "--help"}, {"evaluate", "--version"},        {"bench", "--help"},    {"bench", "op"},
    {"inspect", "-h"},      {"inspect", "--version"}};

const std::vector<std::string> kPrograms = {"train", "prepare_data", "generate", "evaluate", "bench", "inspect"};

TEST(EveryProgram, NamesTheWordThatItDoesNotUnderstand) {
  for (const std::string& program : kPrograms)
    for (const char* word : {"-seed", "-lr", "-name=x", "-x3", "--no-such-option", "--no-such-option=3", "--", "--=x"})
      test::expect_one_line(execute({program, word}), program + ": ", word);
}

TEST(EveryProgram, TellsItsVersionAndItsOptions) {
  for (const std::string& program : kPrograms) {
    const Outcome version = execute({program, "--version"}), help = execute({program, "--help"});
    EXPECT_EQ(version.code, 0) << version.err;
    EXPECT_EQ(version.out.find(program + " "), 0u) << version.out;
    EXPECT_EQ(std::count(version.out.begin(), version.out.end(), '\n'), 1) << version.out;
    EXPECT_EQ(help.code, 0) << help.err;
    EXPECT_NE(help.out.find("Usage"), std::string::npos) << help.out;
    EXPECT_EQ(execute({program, "-h"}).out, help.out);
  }
}

TEST(EveryProgram, RefusesMoreThreadsThanOpenMpCanStart) {
  const char* set = std::getenv("OMP_NUM_THREADS");
  const std::string before = set == nullptr ? "" : set;
  for (const char* threads : {"100000", "1025", " +99999999999"}) {
    ASSERT_EQ(::setenv("OMP_NUM_THREADS", threads, 1), 0);
    for (const std::string& program : kPrograms) {
      const Outcome outcome = execute({program, "--version"});
      if (program == "prepare_data" || program == "inspect")  // have no OpenMP loop
        EXPECT_EQ(outcome.code, 0) << outcome.err;
      else
        test::expect_one_line(outcome, program + ": ", "OMP_NUM_THREADS: asks for more than 1024 threads");
    }
  }
  ASSERT_EQ(::setenv("OMP_NUM_THREADS", "1024", 1), 0);
  EXPECT_EQ(execute({"bench", "--version"}).code, 0);
  ASSERT_EQ(set == nullptr ? ::unsetenv("OMP_NUM_THREADS") : ::setenv("OMP_NUM_THREADS", before.c_str(), 1), 0);
}

TEST(EveryProgram, ChecksTheAddressSpaceOfOpenBlasOnlyWhereItIsLinked) {
  if (test::kSanitized) GTEST_SKIP() << "sanitizers take all of it";
  test::Streams streams;
  streams.address_space = size_t{120} << 20;
  EXPECT_EQ(execute({"prepare_data", "--version"}, streams).code, 0);
  const Outcome bench = execute({"bench", "--version"}, streams);
  if (bench.code != 127)  // with the CUDA libraries the program is too large for the loader, which says so itself
    test::expect_one_line(bench, "bench: ", "ulimit -v");
}

TEST(StandardOutput, ThatIsFullOrClosedIsAnError) {
  for (const std::vector<std::string>& words : kTalkers) {
    const Outcome fine = execute(words), full = execute(words, {.out = "/dev/full"}),
                  closed = execute(words, {.close_out = true});
    EXPECT_EQ(fine.code, 0) << words[0] << ' ' << words[1] << fine.err;
    EXPECT_NE(fine.out, "");
    for (const Outcome& outcome : {full, closed})
      test::expect_one_line(outcome, words[0] + ": ", "standard output: cannot be written");
    EXPECT_NE(full.err.find("No space left on device"), std::string::npos) << full.err;
  }
}

TEST(StandardOutput, WhoseReaderIsGoneEndsAProgramAsSigpipeDoes) {
  for (const std::vector<std::string>& words : kTalkers) {
    const test::TempDir folder;
    const std::string fifo = folder / "fifo";
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    // A reader that is there when the program opens the pipe, and gone when it writes.
    const int reader = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK);
    const int writer = ::open(fifo.c_str(), O_WRONLY);
    ::close(reader);
    test::Streams streams;
    streams.out_fd = writer;
    const Outcome outcome = execute(words, streams);
    ::close(writer);
    EXPECT_EQ(outcome.code, 128 + SIGPIPE) << words[0] << ' ' << words[1] << outcome.err;
  }
}

TEST(StandardError, ThatIsClosedLosesNothingElse) {
  for (const std::vector<std::string>& words : kTalkers) {
    const Outcome outcome = execute(words, {.close_err = true});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_NE(outcome.out, "");
  }
  EXPECT_EQ(execute({"generate"}, {.close_err = true}).code, 1);
  EXPECT_EQ(execute({"generate"}, {.close_out = true, .close_err = true}).code, 1);
}

}  // namespace
}  // namespace scfa

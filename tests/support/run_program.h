// Runs a program of this build as a user would, and what it left: exit code, standard output and standard error.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "support/signals.h"
#include "support/temp_dir.h"

namespace scfa::test {

struct Outcome {
  int code;  // negative: the signal that ended it
  std::string out, err;
};

// Where a program's standard streams go; an empty path is a file of the helper's own, which Outcome holds.
struct Streams {
  std::string in = "/dev/null", out{}, err{};
  bool close_in = false, close_out = false, close_err = false;     // instead
  int out_fd = -1;                                                 // instead of out, if it is one
  int64_t file_limit = -1;                                         // bytes that a file may have; more cannot be written
  size_t address_space = 0;                                        // limit in bytes, as of ulimit -v; 0: none
  std::vector<std::pair<std::string, std::string>> environment{};  // variables beside those of the test
  std::string folder{};                                            // to work in; empty: that of the test
};

// words[0] is a program of this build, or the path of another.
inline pid_t start_program_of_build(std::vector<std::string> words, const Streams& streams) {
  if (!words[0].starts_with('/')) words[0] = std::string(SCFA_BINARY_DIR) + "/" + words[0];
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  restore_default_signals();
  if (std::freopen(streams.in.c_str(), "r", stdin) == nullptr ||
      std::freopen(streams.out.c_str(), "w", stdout) == nullptr ||
      std::freopen(streams.err.c_str(), "w", stderr) == nullptr)
    _exit(99);
  if (streams.out_fd >= 0) ::dup2(streams.out_fd, STDOUT_FILENO);
  if (streams.close_in) ::close(STDIN_FILENO);
  if (streams.close_out) ::close(STDOUT_FILENO);
  const rlimit limit{static_cast<rlim_t>(streams.file_limit), static_cast<rlim_t>(streams.file_limit)};
  if (streams.file_limit >= 0) ::setrlimit(RLIMIT_FSIZE, &limit);
  if (streams.close_err) ::close(STDERR_FILENO);
  const rlimit space{streams.address_space, streams.address_space};
  if (streams.address_space > 0) ::setrlimit(RLIMIT_AS, &space);
  if (!streams.folder.empty() && ::chdir(streams.folder.c_str()) != 0) _exit(97);
  for (const auto& [name, value] : streams.environment) ::setenv(name.c_str(), value.c_str(), 1);
  execv(arguments[0], arguments.data());
  _exit(98);
}

// words[0] is the program's name. act(pid) is called once it has started.
template <class Act>
Outcome execute(const std::vector<std::string>& words, const Act& act, Streams streams = {}) {
  const TempDir folder;
  if (streams.out.empty()) streams.out = folder / "out.txt";
  if (streams.err.empty()) streams.err = folder / "err.txt";
  const pid_t pid = start_program_of_build(words, streams);
  act(pid);
  int status = 0;
  waitpid(pid, &status, 0);
  const auto left = [](const std::string& path) {
    return std::filesystem::is_regular_file(path) ? read_text(path) : std::string();
  };
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), left(streams.out), left(streams.err)};
}

inline Outcome execute(const std::vector<std::string>& words, const Streams& streams = {}) {
  return execute(
      words, [](pid_t) {}, streams);
}

// One line "NAME: ..." that has `part` in it, and exit code 1.
inline void expect_one_line(const Outcome& outcome, const std::string& start, const std::string& part) {
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_EQ(outcome.err.substr(0, start.size()), start) << outcome.err;
  EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err << "lacks " << part;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

// Waits until something is so, a minute at most.
template <class Condition>
bool wait_until(const Condition& condition) {
  for (int i = 0; i < 12000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A program that has not ended after a minute is killed, which its exit code shows.
inline void expect_end(pid_t pid) {
  const auto ended = [&] {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
  };
  if (!wait_until(ended)) ::kill(pid, SIGKILL);
}

// Sends a program a signal that must end it.
inline void stop_program(pid_t pid, int signal) {
  ::kill(pid, signal);
  expect_end(pid);
}

// Returns when a program does nothing but wait: it sleeps and has used no time of any CPU for 300 ms.
inline void wait_until_idle(pid_t pid) {
  const auto usage = [&] {  // utime and stime, or -1 while the main thread does not sleep
    std::ifstream file(concat("/proc/", pid, "/stat"));
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::istringstream fields(text.substr(std::min(text.rfind(')') + 1, text.size())));  // behind the name
    std::string state, skipped;
    int64_t utime = 0, stime = 0;
    fields >> state;
    for (int i = 0; i < 10; ++i) fields >> skipped;
    fields >> utime >> stime;
    return fields && state == "S" ? utime + stime : -1;
  };
  for (int i = 0; i < 100; ++i) {
    const int64_t before = usage();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    if (before >= 0 && usage() == before) return;
  }
  ADD_FAILURE() << "process " << pid << " was busy for half a minute";
}

// A pipe into which nothing more fits, and that nobody reads.
class FullPipe {
 public:
  FullPipe() {
    EXPECT_EQ(::pipe2(ends_, O_CLOEXEC), 0);
    ::fcntl(ends_[1], F_SETPIPE_SZ, 4096);
    const std::string block(4096, '.');
    ::fcntl(ends_[1], F_SETFL, O_NONBLOCK);
    while (::write(ends_[1], block.data(), block.size()) > 0) continue;
    ::fcntl(ends_[1], F_SETFL, 0);
  }
  ~FullPipe() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  FullPipe(const FullPipe&) = delete;
  FullPipe& operator=(const FullPipe&) = delete;

  int out() const { return ends_[1]; }

 private:
  int ends_[2];
};

inline void wait_for(const std::string& path) {
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(path); })) << path;
}

}  // namespace scfa::test

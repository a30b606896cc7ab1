#include "core/signals.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "support/run_program.h"
#include "support/signals.h"

namespace scfa {
namespace {

// A process of its own whose standard error this one reads. It says "ready" and runs body.
class Child {
 public:
  explicit Child(const std::function<int()>& body) {
    int ends[2];
    if (::pipe(ends) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[0]);
      ::dup2(ends[1], STDERR_FILENO);
      ::alarm(20);
      test::restore_default_signals();
      _exit(body());
    }
    ::close(ends[1]);
    from_ = ends[0];
    ::fcntl(from_, F_SETFL, O_NONBLOCK);
    wait_for("ready\n");
  }
  ~Child() {
    if (pid_ > 0 && !ended_) ::kill(pid_, SIGKILL), code();
    ::close(from_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void send(int signal) const { ::kill(pid_, signal); }
  // Waits until standard error has `part`; what came up to its end is taken away.
  bool wait_for(const std::string& part) {
    return test::wait_until([&] {
      char block[512];
      const ssize_t got = ::read(from_, block, sizeof block);
      if (got > 0) text_.append(block, static_cast<size_t>(got));
      const size_t at = text_.find(part);
      if (at != std::string::npos) text_.erase(0, at + part.size());
      return at != std::string::npos;
    });
  }
  int code() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  const std::string& rest() const { return text_; }

 private:
  pid_t pid_ = -1;
  int from_ = -1;
  bool ended_ = false;
  std::string text_;
};

void say(const char* text) {
  [[maybe_unused]] const ssize_t done = ::write(STDERR_FILENO, text, std::strlen(text));
}

constexpr int kSaveTwice = 77;

// Never looks at stop_requested, as a program in a step that takes long; ends after two saves.
int deaf() {
  install_signal_handlers("tool", "ending after this step", "saving after this step");
  say("ready\n");
  for (int saves = 0; saves < 2; ::usleep(2000)) saves += take_save_request();
  return kSaveTwice;
}

int obedient() {
  install_signal_handlers("tool", "ending after this step", nullptr);
  say("ready\n");
  while (!stop_requested()) ::usleep(2000);
  return 128 + stop_signal();
}

TEST(Signals, EachThatAsksToStopIsAcknowledgedAtOnce) {
  for (const auto& [signal, name] : {std::pair(SIGINT, "SIGINT"), std::pair(SIGTERM, "SIGTERM"),
                                     std::pair(SIGHUP, "SIGHUP"), std::pair(SIGUSR2, "SIGUSR2")}) {
    Child child(&deaf);
    child.send(signal);
    EXPECT_TRUE(child.wait_for(concat("tool: ", name, ": ending after this step\n"))) << child.rest();
    Child listens(&obedient);
    listens.send(signal);
    EXPECT_EQ(listens.code(), 128 + signal);
  }
}

TEST(Signals, TheThirdEndsTheProgramWhereItIs) {
  Child child(&deaf);
  child.send(SIGTERM);
  ASSERT_TRUE(child.wait_for("SIGTERM: ending after this step\n"));
  child.send(SIGINT);
  EXPECT_TRUE(child.wait_for("SIGINT: still ending after this step\n")) << child.rest();
  EXPECT_TRUE(child.wait_for("a third signal ends it at once")) << child.rest();
  child.send(SIGINT);
  EXPECT_EQ(child.code(), 128 + SIGINT);
}

TEST(Signals, SigUsr1SavesAndGoesOn) {
  Child child(&deaf);
  for (int i = 0; i < 2; ++i) {
    child.send(SIGUSR1);
    EXPECT_TRUE(child.wait_for("tool: SIGUSR1: saving after this step\n")) << child.rest();
    ::usleep(20'000);
  }
  EXPECT_EQ(child.code(), kSaveTwice);
  Child nothing_to_save(&obedient);
  nothing_to_save.send(SIGUSR1);
  EXPECT_TRUE(nothing_to_save.wait_for("SIGUSR1: there is nothing to save; going on\n")) << nothing_to_save.rest();
  nothing_to_save.send(SIGTERM);
  EXPECT_EQ(nothing_to_save.code(), 128 + SIGTERM);
}

TEST(Signals, WhatWasIgnoredAtTheStartStaysIgnored) {
  Child child([] {
    std::signal(SIGHUP, SIG_IGN);  // as nohup does
    return obedient();
  });
  child.send(SIGHUP);
  ::usleep(20'000);
  child.send(SIGTERM);
  ASSERT_TRUE(child.wait_for("tool: "));
  EXPECT_EQ(child.rest().substr(0, 7), "SIGTERM");
  EXPECT_EQ(child.code(), 128 + SIGTERM);
}

TEST(Signals, AClosedStandardErrorStopsNoHandler) {
  Child child([] {
    install_signal_handlers("tool", "ending", nullptr);
    say("ready\n");
    std::signal(SIGPIPE, SIG_IGN);
    ::close(STDERR_FILENO);
    while (!stop_requested()) ::usleep(2000);
    return 128 + stop_signal();
  });
  child.send(SIGTERM);
  EXPECT_EQ(child.code(), 128 + SIGTERM);
}

TEST(Signals, TheFirstStopIsRememberedUntilReset) {
  reset_signals();
  EXPECT_FALSE(stop_requested());
  EXPECT_EQ(stop_signal(), 0);
  request_stop(SIGPIPE);
  request_stop(SIGTERM);
  EXPECT_TRUE(stop_requested());
  EXPECT_EQ(stop_signal(), SIGPIPE);
  EXPECT_FALSE(take_save_request());
  reset_signals();
  EXPECT_FALSE(stop_requested());
}

}  // namespace
}  // namespace scfa

#include "core/signals.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace scfa {

namespace {

struct Texts {
  const char *program, *on_stop, *on_save;
};
Texts texts{"", "stopping", nullptr};
std::atomic<int> first_signal{0}, stops{0};
std::atomic<bool> stopping{false}, saving{false}, silent{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

const char* name_of_signal(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "signal";
  }
}

// One write of "PROGRAM: SIGNAL: parts", with what a signal handler may call.
void say(int signal, const char* first, const char* second) {
  if (silent) return;
  char line[512];
  size_t length = 0;
  const auto append = [&](const char* part) {
    const size_t size = std::min(std::strlen(part), sizeof line - length);
    std::copy(part, part + size, line + length);
    length += size;
  };
  if (isatty(STDERR_FILENO) == 1) append("\r\033[K");  // over the progress line, behind the terminal's own "^C"
  for (const char* part : {texts.program, ": ", name_of_signal(signal), ": ", first, second, "\n"}) append(part);
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, length);
}

extern "C" void on_stop(int signal) {
  const int error = errno;
  const int count = ++stops;
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
  stopping = true;
  if (count == 1)
    say(signal, texts.on_stop, "");
  else if (count == 2)
    say(signal, "still ", texts.on_stop), say(signal, "a third signal ends it at once; unsaved work is lost", "");
  else
    _exit(128 + signal);
  errno = error;
}

extern "C" void on_save(int signal) {
  const int error = errno;
  if (texts.on_save != nullptr) saving = true;
  say(signal, texts.on_save != nullptr ? texts.on_save : "there is nothing to save; going on", "");
  errno = error;
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction before {};
  if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers(const char* program, const char* on_stop_text, const char* on_save_text, bool is_silent) {
  reset_signals();
  silent = is_silent;
  texts = {program, on_stop_text, on_save_text};
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR2}) handle(signal, &on_stop);
  handle(SIGUSR1, &on_save);
}

void reset_signals() {
  first_signal = 0, stops = 0;
  stopping = saving = false;
}

int stop_signal() {
  return first_signal;
}
const std::atomic<bool>& stop_requested() {
  return stopping;
}
void request_stop(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
  stopping = true;
}
bool take_save_request() {
  return saving.exchange(false);
}

}  // namespace scfa

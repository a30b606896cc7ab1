#include "core/program.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <system_error>

#include "core/error.h"
#include "core/output.h"
#include "core/signals.h"

namespace scfa {

namespace {

void open_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // open() takes the lowest number, which is this one. Input opened for writing and output for reading: to read and
    // to write fail, as they should.
    [[maybe_unused]] const int opened = ::open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
  }
}

// OpenMP's threads spin while they wait, and on a machine with other work to do that makes small models tens of times
// slower. The runtime reads its settings before main, so the program starts itself once more with the right one.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);  // returns only where that cannot be done; then we go on as we are
}

void complain(const char* name, const std::string& text) {
  const std::string prefix = std::string(name) + ": ";
  std::string line = text.starts_with(prefix) ? text : prefix + text;
  for (char& c : line)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  std::fprintf(stderr, "%s\n", line.c_str());
}

int run_body(const char* name, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Interrupted& error) {
    complain(name, error.what());
    return 128 + stop_signal();
  } catch (const std::exception& error) {
    complain(name, text_of(error));
  }
  return 1;
}

}  // namespace

std::string text_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "not enough memory";
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error))
    return file->path1().string() + ": " + file->code().message();
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return concat("system error: ", system->code().message());
  return error.what();
}

void start_program(char** argv) {
  open_standard_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  wait_passively(argv);
  make_standard_output_patient();
}

void flush_output() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (std::cout.good() && flushed && std::ferror(stdout) == 0) return;
  const int reason = standard_output_error() != 0 ? standard_output_error() : errno;
  if (reason == EINTR) throw Interrupted("standard output: nobody reads it; the rest was not written");
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  if (reason == EPIPE || (::poll(&output, 1, 0) > 0 && (output.revents & POLLERR) != 0)) {
    request_stop(SIGPIPE);
    throw Interrupted("standard output: closed by its reader");
  }
  fail("standard output: cannot be written", reason == 0 ? std::string() : concat(": ", std::strerror(reason)));
}

int run_program(const char* name, const std::function<int()>& body) {
  return run_body(name, [&] {
    const int code = body();
    flush_output();
    return code;
  });
}

}  // namespace scfa

#include "core/program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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
#include "core/signals.h"

namespace scfa {

namespace {

// ---- before the libraries' own initialisers -------------------------------------------------------------------------

// The number in an environment of the setting that starts with `name`, "OMP_NUM_THREADS="; 0 if there is none.
__attribute__((no_sanitize("address", "undefined"))) long setting(char** environment, const char* name) {
  for (; *environment != nullptr; ++environment) {
    size_t i = 0;
    while (name[i] != 0 && (*environment)[i] == name[i]) ++i;
    if (name[i] != 0) continue;
    long value = 0;
    for (const char* digit = *environment + i; *digit >= '0' && *digit <= '9' && value < 10000; ++digit)
      value = 10 * value + (*digit - '0');
    return value;
  }
  return 0;
}

// OpenBLAS takes a buffer for each thread when it is loaded, and asks again for ever where a limit of the process
// leaves no room for one. System calls only: no library has been initialised yet.
__attribute__((no_sanitize("address", "undefined"))) void check_address_space(int, char**, char** environment) {
  rlimit limit;
  if (::syscall(SYS_prlimit64, 0, RLIMIT_AS, nullptr, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  unsigned char processors[1024];
  const long bytes = ::syscall(SYS_sched_getaffinity, 0, sizeof processors, processors);
  long threads = 0;
  for (long i = 0; i < bytes; ++i)
    for (unsigned char bits = processors[i]; bits != 0; bits &= static_cast<unsigned char>(bits - 1)) ++threads;
  const long wanted = setting(environment, "OMP_NUM_THREADS=");
  if (wanted > 0 && wanted < threads) threads = wanted;
  const size_t size = kBlasBuffer * static_cast<size_t>(threads > 0 ? threads : 1);
  const long probe = ::syscall(SYS_mmap, nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
  if (probe != -1) {
    ::syscall(SYS_munmap, probe, size);
    return;
  }
  constexpr char kText[] =
      "error: the limit of address space (ulimit -v) leaves no room for OpenBLAS, which takes 256 MB for each thread; "
      "raise it, or set OMP_NUM_THREADS lower\n";
  ::syscall(SYS_write, STDERR_FILENO, kText, sizeof kText - 1);
  ::syscall(SYS_exit_group, 1);
}
using Initialiser = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used]] const Initialiser kBeforeAll = &check_address_space;

// ---- in main
// ---------------------------------------------------------------------------------------------------------

void open_standard_descriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // open() takes the lowest number, which is this one. Output opened for reading: writing to it fails, as it should.
    [[maybe_unused]] const int opened = ::open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
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
    return concat("the system refused what was asked of it: ", system->code().message());
  return error.what();
}

void start_program(char** argv) {
  open_standard_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  wait_passively(argv);
}

void flush_output() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (std::cout.good() && flushed && std::ferror(stdout) == 0) return;
  const int reason = errno;
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  if (reason == EPIPE || (::poll(&output, 1, 0) > 0 && (output.revents & POLLERR) != 0)) {
    request_stop(SIGPIPE);
    throw Interrupted("standard output: nobody reads it any more");
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

#include "core/blas_startup.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// No library has been initialised when this runs, those of the sanitizers neither.
#define SCFA_BEFORE_ALL __attribute__((no_sanitize("address", "undefined")))

namespace scfa {

namespace {

// The number in an environment of the setting that starts with `name`, "OMP_NUM_THREADS="; 0 if there is none.
SCFA_BEFORE_ALL long setting(char** environment, const char* name) {
  for (; *environment != nullptr; ++environment) {
    size_t i = 0;
    while (name[i] != 0 && (*environment)[i] == name[i]) ++i;
    if (name[i] != 0) continue;
    const char* digit = *environment + i;
    while (*digit == ' ' || *digit == '\t' || *digit == '+') ++digit;
    long value = 0;
    for (; *digit >= '0' && *digit <= '9' && value < 1'000'000; ++digit) value = 10 * value + (*digit - '0');
    return value;
  }
  return 0;
}

SCFA_BEFORE_ALL long processors_allowed() {
  unsigned char processors[1024];
  const long bytes = ::syscall(SYS_sched_getaffinity, 0, sizeof processors, processors);
  long count = 0;
  for (long i = 0; i < bytes; ++i)
    for (unsigned char bits = processors[i]; bits != 0; bits &= static_cast<unsigned char>(bits - 1)) ++count;
  return count > 0 ? count : 1;
}

SCFA_BEFORE_ALL void say(const char* text) {
  size_t size = 0;
  while (text[size] != 0) ++size;
  ::syscall(SYS_write, STDERR_FILENO, text, size);
}

// One line "PROGRAM: text", as from run_program.
SCFA_BEFORE_ALL void end_with(char** arguments, const char* text) {
  const char* name = arguments[0] == nullptr ? "error" : arguments[0];
  for (const char* c = name; *c != 0; ++c)
    if (*c == '/') name = c + 1;
  say(name), say(": "), say(text);
  ::syscall(SYS_exit_group, 1);
}

}  // namespace

SCFA_BEFORE_ALL void check_blas_startup(int /*count*/, char** arguments, char** environment) {
  const long processors = processors_allowed(), wanted = setting(environment, "OMP_NUM_THREADS=");
  if (wanted > kMaxOpenMpThreads && wanted > processors)
    end_with(arguments,
             "OMP_NUM_THREADS: asks for more than 1024 threads; set it to at most the processors there are\n");
  rlimit limit;
  if (::syscall(SYS_prlimit64, 0, RLIMIT_AS, nullptr, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const long threads = wanted > 0 && wanted < processors ? wanted : processors;
  // OpenBLAS takes a buffer for each thread when it is loaded, and asks again for ever where there is no room for one.
  const size_t size = kBlasBuffer * static_cast<size_t>(threads);
  const long probe = ::syscall(SYS_mmap, nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
  if (probe == -1)
    end_with(arguments,
             "the limit of address space (ulimit -v) leaves no room for OpenBLAS, which takes 256 MB for each thread; "
             "raise it, or set OMP_NUM_THREADS lower\n");
  ::syscall(SYS_munmap, probe, size);
}

}  // namespace scfa

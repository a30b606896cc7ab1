// Signals of a process that a test starts.
#pragma once
#include <csignal>

namespace scfa::test {

// To be called in a new process before it becomes the program: nohup and a shell's & leave signals ignored in all that
// they start, and a program leaves ignored what was ignored at its start.
inline void restore_default_signals() {
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) std::signal(signal, SIG_DFL);
}

}  // namespace scfa::test

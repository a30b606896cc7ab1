// Signals, the same in all programs. SIGINT, SIGTERM, SIGHUP and SIGUSR2 ask a program to stop; the first is
// acknowledged at once on standard error, a third one ends the program where it is. SIGUSR1 asks a program to save what
// it has and go on. A program that stopped for a signal exits with 128 + its number. Signals that were ignored when
// the program was started (nohup) stay ignored.
#pragma once
#include <atomic>

#include "core/error.h"

namespace scfa {

// program, on_stop and on_save must outlive the program. on_stop says what it will do: "ending after this step, with a
// checkpoint". on_save likewise; null: there is nothing to save. silent: acknowledges nothing, another process does.
void install_signal_handlers(const char* program, const char* on_stop, const char* on_save, bool silent = false);

// Forgets what came before.
void reset_signals();

int stop_signal();                          // that asked to stop first; 0 if none has
const std::atomic<bool>& stop_requested();  // the same as a flag that other threads can look at
void request_stop(int signal);              // as if that signal had come, without a word
bool take_save_request();                   // whether a save was asked for since the last call

// Thrown where work ends because a signal asked for it; the program's exit code is then 128 + that signal.
class Interrupted : public Error {
 public:
  using Error::Error;
};

// Throws Interrupted with the parts put together, if a signal asked to stop.
template <class... Parts>
void check_stop(const Parts&... parts) {
  if (stop_requested()) throw Interrupted(concat(parts...));
}

}  // namespace scfa

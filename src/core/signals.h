// Signals, the same in all programs. SIGINT, SIGTERM, SIGHUP and SIGUSR2 ask a program to stop; the first is
// acknowledged at once on standard error, a third one ends the program where it is. SIGUSR1 asks a program to save what
// it has and go on. A program that stopped for a signal exits with 128 + its number. Signals that were ignored when
// the program was started (nohup) stay ignored.
#pragma once
#include <atomic>

#include "core/error.h"

namespace scfa {

// program, on_stop and on_save must outlive the program. on_stop says what it will do: "ending after this step, with a
// checkpoint". on_save likewise; null: there is nothing to save.
void install_signal_handlers(const char* program, const char* on_stop, const char* on_save);

// Forgets what came before.
void reset_signals();

int stop_signal();                          // that asked to stop first; 0 if none has
const std::atomic<bool>& stop_requested();  // the same as a flag that other threads can look at
// Thrown by work that ends before its end because a signal asked to stop; run_program turns it into exit code 128 +
// the signal's number.
class Interrupted : public Error {
 public:
  using Error::Error;
};
void throw_if_stopped(const std::string& what);  // "WHAT was interrupted"

void request_stop(int signal);  // as if that signal had come, without a word
bool take_save_request();       // whether a save was asked for since the last call

}  // namespace scfa

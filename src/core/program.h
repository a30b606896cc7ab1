// What every program does around its work: descriptors and signals that must not surprise it, errors as one readable
// line and exit code 1, output that could not be written as an error.
#pragma once
#include <exception>
#include <functional>
#include <string>

namespace scfa {

// Call it first in main. Opens closed standard descriptors on /dev/null, so that no file of ours gets their numbers
// (reading standard input and writing standard output then still fail). A closed pipe and a file over the size limit
// become write errors instead of signals, and a full pipe does not delay signals. Runs the program once more with
// OMP_WAIT_POLICY=passive, unless that or GOMP_SPINCOUNT is set.
void start_program(char** argv);

// Runs body and returns the program's exit code: body's, or 1 after an error, whose text is printed as one line
// "NAME: text" on standard error, or after output that did not reach standard output; or 128 + the signal after
// Interrupted (core/signals.h).
int run_program(const char* name, const std::function<int()>& body);

// What run_program prints of an exception.
std::string text_of(const std::exception& error);

// Throws Error if something written to standard output (std::cout or stdio) did not get there, Interrupted if a signal
// asked to stop and nobody reads a full pipe. One that nobody can read any more counts as SIGPIPE: it asks the program
// to stop, and Interrupted is thrown.
void flush_output();

}  // namespace scfa

// Writing to a standard stream that somebody may read slowly, or not at all: a full pipe, a terminal that is stopped.
#pragma once
#include <string_view>

namespace scfa {

// Writes all of text to a descriptor, and waits for whoever reads slowly; once a signal asked to stop
// (core/signals.h), no longer for who does not read. Returns 0, or errno of what failed; EINTR: it was given up then.
int write_patiently(int fd, std::string_view text);

// "train: TEXT" as a line on standard error, over a progress line that stands there: for a program that ends by force.
// Takes no lock, which a thread that hangs may hold, and where nobody reads says nothing after a second.
void say_at_the_end(std::string_view text);

// From here on std::cout writes that way. What could not be written is an error of flush_output (core/program.h).
void make_standard_output_patient();

// errno of the first write of std::cout that failed since then; 0 if none has.
int standard_output_error();

}  // namespace scfa

// Writing to a standard stream that somebody may read slowly, or not at all: a full pipe, a terminal that is stopped.
#pragma once
#include <string_view>

namespace scfa {

// Writes all of text to a descriptor. Waits for a slow reader until a signal asks to stop (core/signals.h). Returns 0,
// or the errno of the failure; EINTR: gave up because of a signal.
int write_patiently(int fd, std::string_view text);

// Prints "train: TEXT" on standard error, over a progress line if there is one: for a program that ends by force.
// Takes no lock, which a hung thread may hold, and gives up if nobody reads for a second.
void say_at_the_end(std::string_view text);

// From here on std::cout writes that way. What could not be written is an error of flush_output (core/program.h).
void make_standard_output_patient();

// errno of the first write of std::cout that failed since then; 0 if none has.
int standard_output_error();

}  // namespace scfa

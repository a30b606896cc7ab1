// The command line of prepare_data.
#pragma once
#include <atomic>
#include <iosfwd>

namespace scfa {

// Runs the program. Results go to `out`, progress to the descriptor `log`. Returns the exit status; throws Error for
// whatever is wrong. Once *stop is set the work ends with an Error and nothing is left behind.
int run_prepare_data(int argc, const char* const* argv, std::ostream& out, int log, const std::atomic<bool>* stop);

}  // namespace scfa

// prepare_data: text to token shards. The command line and the work are in src/data.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <exception>
#include <iostream>

#include "data/prepare_cli.h"

namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_signal(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);  // a second one ends the program at once
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is an error to report
  try {
    return scfa::run_prepare_data(argc, argv, std::cout, std::cerr, isatty(STDERR_FILENO) == 1, &interrupted);
  } catch (const std::exception& error) {
    std::cerr << "prepare_data: " << error.what() << "\n";
    return interrupted ? 130 : 1;
  }
}

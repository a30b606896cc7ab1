// prepare_data: text to token shards. The command line and the work are in src/data.
#include <unistd.h>

#include <iostream>

#include "core/program.h"
#include "core/signals.h"
#include "data/prepare_cli.h"

int main(int argc, char** argv) {
  scfa::start_program(argv);
  scfa::install_signal_handlers("prepare_data", "stopping; nothing will be written", nullptr);
  const int code = scfa::run_program("prepare_data", [&] {
    return scfa::run_prepare_data(argc, argv, std::cout, STDERR_FILENO, &scfa::stop_requested());
  });
  return code != 0 && scfa::stop_signal() != 0 ? 128 + scfa::stop_signal() : code;
}

// ./inspect PATH: what a checkpoint, a run, a folder of runs or a prepared set holds, and whether it is whole.
#include "train/inspect.h"

#include <unistd.h>

#include <iostream>

#include "core/command_line.h"
#include "core/program.h"
#include "core/signals.h"
#include "core/terminal.h"
#include "tools/inspect_text.h"

namespace scfa {
namespace {

CommandLine options() {
  CommandLine line("inspect",
                   "Says what a folder holds and whether it is as it was written. PATH is a checkpoint, a run, a\n"
                   "folder of runs, or a prepared set. Exit code 1 if something is broken.\n\n"
                   "Usage: inspect PATH [option ...]\n");
  line.allow_words();
  line.add_flag("config", "also print the config, as JSON");
  line.add_flag("tensors", "checkpoint: also print name, shape and size of each tensor");
  line.add_flag("fast", "set, run, runs: compute no checksums, read only the end of metrics.jsonl");
  line.add_flag("json", "print everything as one JSON object");
  return line;
}

int run(int argc, char** argv) {
  CommandLine line = options();
  if (!line.parse(argc, argv, std::cout)) return 0;
  install_signal_handlers("inspect", "ending", nullptr);
  require(line.words().size() == 1,
          "name one folder: ./inspect runs/NAME, runs/NAME/checkpoint-STEP, runs, or data/SET");
  ProgressLine progress(STDERR_FILENO);
  const InspectOptions settings{.fast = line.flag("fast"),
                                .progress = [&](double share, const std::string& text) { progress.draw(share, text); }};
  const Json found = inspect(line.words().front(), settings);
  progress.clear();
  if (line.flag("json"))
    std::cout << found.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  else
    std::cout << describe_inspected(found, {.config = line.flag("config"), .tensors = line.flag("tensors")});
  flush_output();
  for (const Json& problem : found["problems"]) std::cerr << "inspect: " << problem.get<std::string>() << '\n';
  return found["problems"].empty() ? 0 : 1;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("inspect", [&] { return scfa::run(argc, argv); });
}

// ./train --config FILE [--KEY VALUE ...]: trains a GPT.
#include <cstdlib>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>

#include "comm/world.h"
#include "core/command_line.h"
#include "core/program.h"
#include "core/signals.h"
#include "train/config_io.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace scfa {
namespace {

constexpr const char* kUsage =
    "Trains a GPT from a config file; every key of the config can be overridden.\n\n"
    "Usage: train --config FILE [--KEY VALUE ...]\n"
    "       mpirun -n N train --config FILE [--KEY VALUE ...]\n"
    "       train --resume runs/NAME [--KEY VALUE ...]\n";

CommandLine make_command_line() {
  CommandLine line("train", kUsage);
  line.add_option("config", "what to train; configs/ holds examples", "FILE");
  line.add_optional_value("resume",
                          "go on from the newest whole checkpoint of the run; with the path of a run or a checkpoint, "
                          "--config is not needed",
                          "PATH");
  line.add_flag("overwrite", "replace what an earlier run of this name left");
  line.add_flag("dry-run", "check config, data and memory; allocate and write nothing");
  line.add_option("ranks", "with --dry-run: plan for N ranks; one GPU is enough", "N");
  line.add_flag("share-gpu",
                "let several ranks use one GPU: for testing runs of many ranks on few GPUs, which is slow");
  line.add_flag("print-config-docs", "print docs/configuration.md");
  add_config_options(line);
  return line;
}

// The overrides given beside the options, in their order, as (key, value).
std::vector<std::pair<std::string, std::string>> overrides(const CommandLine& line) {
  std::vector<std::pair<std::string, std::string>> found;
  const std::set<std::string> options{"config", "resume",    "overwrite",        "dry-run",
                                      "ranks",  "share-gpu", "print-config-docs"};
  for (const auto& given : line.values())
    if (!options.contains(given.first)) found.push_back(given);
  return found;
}

// The config of --resume PATH. Prints its overrides, because no config file shows them.
Config resumed_config(const CommandLine& line, TrainOptions* options, Console& console) {
  const std::string path = line.text("resume");
  require(!line.given("config"), "--config and --resume ", path, " both say what to train: give --resume ", path,
          ", which goes on with its own config, or --config FILE and --resume without a path");
  for (const char* key : {"name", "runs"})
    require(!line.given(key), "--", key, ": --resume ", path, " says which run to go on with; leave it out");
  const ResumeSource source = resume_source(path);
  options->resume_from = source.checkpoint;
  Config config = source.config;
  for (const auto& [key, value] : overrides(line)) override_config(config, key, value);
  console.line("config: that of " + path);
  for (const Difference& d : differences(source.config, config))
    console.line("  " + d.key + ": " + d.b + " (was " + d.a + ")");
  return config;
}

Config given_config(const CommandLine& line) {
  require(line.list("config").size() <= 1, "--config: is given twice; give one file");
  require(line.given("config"), "say what to train: ./train --config configs/quickstart.json (--help lists all)");
  Config config = read_config(line.text("config"));
  for (const auto& [key, value] : overrides(line)) override_config(config, key, value);
  return config;
}

// Only rank 0 acknowledges a signal: Ctrl-C reaches every rank of a terminal.
void install_handlers(const Config& config, const World& world) {
  check_stop("stopped before anything was done");
  static std::string on_stop;
  on_stop = "ending after the step under way, with a checkpoint";
  if (config.train.stop_seconds > 0)
    on_stop += concat("; without one if the step takes longer than ", config.train.stop_seconds, " s");
  install_signal_handlers("train", on_stop.c_str(), "saving after this step and going on", !world.is_rank0());
}

int planned_ranks(const CommandLine& line) {
  if (!line.given("ranks")) return 0;
  require(line.flag("dry-run"),
          "--ranks: is for --dry-run; a run has as many ranks as mpirun -n N, srun or torchrun start");
  return static_cast<int>(line.integer("ranks", 1, 1 << 20));
}

int run(World& world, const CommandLine& line) {
  Console console(!world.is_rank0());
  TrainOptions options;
  Config config;
  world.run_on_all("reading the config", [&] {
    const std::string resume = line.text("resume");
    require(!line.given("resume") || !resume.empty(), "--resume=: names no path; --resume alone needs none");
    options = {.resume = !resume.empty() && resume != "false",
               .resume_from = {},
               .overwrite = line.flag("overwrite"),
               .dry_run = line.flag("dry-run"),
               .plan_ranks = planned_ranks(line),
               .share_gpu = line.flag("share-gpu")};
    const bool by_path = options.resume && resume != "true";
    config = by_path ? resumed_config(line, &options, console) : given_config(line);
    install_handlers(config, world);
  });
  const TrainResult result = train(config, options, console, world);
  if (result.signal != 0) return 128 + result.signal;
  console.check_written();
  return 0;
}

int run_as_rank(World& world, int argc, char** argv) {
  CommandLine line = make_command_line();
  std::ostringstream unheard;
  bool go_on = false;
  world.run_on_all("reading the command line", [&] {
    std::ostream& out = world.is_rank0() ? std::cout : unheard;
    go_on = line.parse(argc, argv, out);
    if (!go_on || !line.flag("print-config-docs")) return;
    out << config_markdown();
    go_on = false;
  });
  return go_on ? run(world, line) : 0;
}

// Only rank 0 reports an error that all ranks met in the same place.
int run_in_world(World& world, int argc, char** argv) {
  try {
    int code = 0;
    world.guard([&] { code = run_as_rank(world, argc, argv); });
    return code;
  } catch (const CollectiveError&) {
    if (world.is_rank0()) throw;
    return 1;
  } catch (const Interrupted&) {
    if (world.is_rank0()) throw;
    return 128 + stop_signal();
  }
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  std::unique_ptr<scfa::World> world;
  const int code = scfa::run_program("train", [&] {
    const scfa::Launch launch = scfa::detect_launch([](const char* name) { return std::getenv(name); });
    scfa::install_signal_handlers("train", "ending before anything is done", nullptr, launch.rank != 0);
    world = std::make_unique<scfa::World>(launch);
    return scfa::run_in_world(*world, argc, argv);
  });
  if (world) world->leave();  // when all has been said
  return code;
}

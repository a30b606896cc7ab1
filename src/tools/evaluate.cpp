// ./evaluate --checkpoint DIR: the loss of a checkpoint, with the patterns it was trained with or others.
#include <unistd.h>

#include <iostream>
#include <optional>

#include "core/command_line.h"
#include "core/program.h"
#include "core/signals.h"
#include "core/terminal.h"
#include "data/table_file.h"
#include "tools/evaluate_text.h"
#include "train/config_io.h"
#include "train/device_option.h"

namespace scfa {
namespace {

CommandLine options() {
  CommandLine line(
      "evaluate",
      "Loss of a checkpoint by position in the context, with the attention patterns it was trained with or\n"
      "others: how much of dense attention's mass they keep, and how much tokens far back lower the loss.\n\n"
      "Usage: evaluate --checkpoint DIR [--data DIR] [--attention.KEY VALUE ...] [option ...]\n");
  line.add_option("checkpoint", "a checkpoint, or a run (its newest checkpoint)", "DIR");
  line.add_option("data", "a prepared set (by default that of the checkpoint's config)", "DIR");
  line.add_option("split", "which part of the set", "val|train", "val");
  line.add_option("windows", "windows to use, spread evenly; 0: all (by default eval.windows of the config)", "N");
  line.add_option("batch", "sequences at a time (by default train.micro_batch_size of the config)", "N");
  line.add_option("model.sequence_length", "tokens of a window, where positions are rotary (by default as trained)",
                  "N");
  line.add_option("model.rotary_theta", "base of the rotary frequencies (by default as trained)", "X");
  line.add_flag("recall", "also the share of dense attention's mass that the patterns keep, by layer and head");
  line.add_option("short-context", "also the loss of the same tokens at the end of windows of N tokens (N even)", "N");
  line.add_option("csv", "also write the tables here", "FILE");
  add_device_option(line);
  add_config_options(line, "attention");
  return line;
}

std::optional<int64_t> optional_integer(const CommandLine& line, const char* name, int64_t min, int64_t max) {
  return line.given(name) ? std::optional(line.integer(name, min, max)) : std::nullopt;
}

CheckpointEvaluationOptions settings_of(const CommandLine& line) {
  require(line.given("checkpoint"), "say which model: --checkpoint runs/NAME");
  for (const char* name : {"data", "csv"})
    require(!line.given(name) || !line.text(name).empty(), "--", name, "=: names ",
            std::string(name) == "csv" ? "no file" : "no folder");
  const std::string device = device_option("evaluate", line), split = line.text("split");
  require(split == "val" || split == "train", "--split: must be val or train, not \"", abbreviate(split), "\"");
  CheckpointEvaluationOptions settings{.checkpoint = line.text("checkpoint"),
                                       .data = line.text("data"),
                                       .split = split == "val" ? Split::kVal : Split::kTrain,
                                       .windows = optional_integer(line, "windows", 0, INT32_MAX),
                                       .batch = optional_integer(line, "batch", 1, 1 << 30),
                                       .recall = line.flag("recall"),
                                       .short_context = optional_integer(line, "short-context", 2, 1 << 20).value_or(0),
                                       .device = device};
  for (const auto& [key, value] : line.values())
    if (key == "attention" || key.starts_with("attention.") || key.starts_with("model."))
      settings.overrides.emplace_back(key, value);
  return settings;
}

int run(int argc, char** argv) {
  CommandLine line = options();
  if (!line.parse(argc, argv, std::cout)) return 0;
  install_signal_handlers("evaluate", "ending after this batch", nullptr);
  CheckpointEvaluationOptions settings = settings_of(line);
  std::optional<TableFile> file;  // first: hours of work shall not end at a folder that is not there
  if (line.given("csv")) file.emplace(line.text("csv"));
  ProgressLine progress(STDERR_FILENO);
  settings.progress = [&](double share, const std::string& text) { progress.draw(share, text); };
  const CheckpointEvaluation evaluation = evaluate_checkpoint(settings);
  progress.clear();
  for (const std::string& warning : evaluation.warnings) std::cerr << "evaluate: warning: " << warning << '\n';
  std::cout << describe_evaluation(evaluation);
  flush_output();
  if (!file) return 0;
  file->append(evaluation_csv(evaluation));
  file->commit();
  return 0;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("evaluate", [&] { return scfa::run(argc, argv); });
}

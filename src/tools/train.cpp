// ./train --config FILE [--KEY VALUE ...]: trains a GPT.
#include <cxxopts.hpp>
#include <iostream>

#include "core/nearest.h"
#include "core/program.h"
#include "core/signals.h"
#include "train/config_io.h"
#include "train/trainer.h"

namespace scfa {
namespace {

void print_help() {
  std::cout << "Trains a GPT from a config file; every key of the config can be overridden.\n\n"
               "  ./train --config FILE [--KEY VALUE ...]\n\n"
               "  --config FILE         what to train; configs/ holds examples\n"
               "  --resume              go on from the newest whole checkpoint of the run\n"
               "  --overwrite           replace what an earlier run of this name left\n"
               "  --dry-run             check config, data and memory; allocate and write nothing\n"
               "  --print-config-docs   print docs/configuration.md\n"
               "  --help                this text\n\nKeys (type, default):\n";
  for (const FieldDoc& doc : config_docs())
    std::cout << "  --" << doc.key << "  (" << doc.type << ", " << doc.default_text << ")\n      " << doc.meaning
              << "\n";
  std::cout << "  --attention  (JSON)\n      one pattern for all layers, or a list with one a layer\n";
}

// cxxopts takes no dots in names: "--train.steps" goes through it as "--train-steps". Keys have no dashes of their own.
std::string without_dots(std::string text) {
  std::replace(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(text.size(), text.find('='))), '.',
               '-');
  return text;
}

int run(int argc, char** argv) {
  std::vector<std::string> words(argv, argv + argc);
  std::vector<const char*> undotted;
  for (std::string& word : words) {
    if (word.starts_with("--")) word = without_dots(word);
    undotted.push_back(word.c_str());
  }
  cxxopts::Options options("train");
  auto add = options.add_options();
  for (const char* flag : {"resume", "overwrite", "dry-run", "print-config-docs", "help"}) add(flag, "");
  std::vector<std::string> keys{"attention"};
  for (const FieldDoc& doc : config_docs()) keys.push_back(doc.key);
  for (const std::string& key : keys) add(without_dots(key), "", cxxopts::value<std::string>());
  add("config", "", cxxopts::value<std::string>());
  options.allow_unrecognised_options();
  const cxxopts::ParseResult arguments = options.parse(argc, undotted.data());
  for (int i = 1; i < argc && !arguments.unmatched().empty(); ++i) {
    const std::string word = argv[i], key = word.substr(std::min(word.size(), word.find_first_not_of('-')));
    if (words[static_cast<size_t>(i)] == arguments.unmatched().front())
      fail(word, ": is not an option", did_you_mean(key.substr(0, key.find('=')), keys), " --help lists all");
  }
  if (arguments.count("help")) return print_help(), 0;
  if (arguments.count("print-config-docs")) return std::cout << config_markdown(), 0;
  require(arguments.count("config") == 1,
          "say what to train: ./train --config configs/quickstart.json (--help lists all)");
  Config config = read_config(arguments["config"].as<std::string>());
  for (const auto& argument : arguments.arguments())  // in the order given
    for (const std::string& key : keys)
      if (argument.key() == without_dots(key)) override_config(config, key, argument.value());
  install_signal_handlers("train", "ending after this step, with a checkpoint", "saving after this step and going on");
  Console console;
  const TrainResult result = train(config,
                                   {.resume = arguments.count("resume") > 0,
                                    .overwrite = arguments.count("overwrite") > 0,
                                    .dry_run = arguments.count("dry-run") > 0},
                                   console);
  return result.signal == 0 ? 0 : 128 + result.signal;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("train", [&] { return scfa::run(argc, argv); });
}

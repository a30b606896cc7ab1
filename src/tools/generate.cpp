// ./generate --checkpoint DIR --prompt TEXT: text from a trained model.
#include "train/generate.h"

#include <iostream>

#include "core/command_line.h"
#include "core/program.h"
#include "core/signals.h"
#include "data/input_file.h"
#include "train/device_option.h"

namespace scfa {
namespace {

constexpr int64_t kLongestPrompt = int64_t{64} << 20;  // bytes

CommandLine options() {
  CommandLine line("generate",
                   "Continues a prompt with a trained model.\n\nUsage: generate --checkpoint DIR [option ...]\n");
  line.add_option("checkpoint", "a checkpoint, or a run (its newest checkpoint)", "DIR");
  line.add_option("prompt", "text to continue; default: the start of a document", "TEXT");
  line.add_option("prompt-file", "the same from a file; - is standard input", "FILE");
  line.add_option("tokens", "how many tokens to make at most", "N", "200");
  line.add_flag("slide", "where the context is full, go on with its last half");
  line.add_option("samples", "how many texts, each with the next seed", "N", "1");
  line.add_option("seed", "random seed", "N", "1");
  line.add_option("temperature", "0 takes the likeliest token", "X", "0.8");
  line.add_option("top-k", "draw from the K likeliest tokens; 0: all", "K", "0");
  line.add_option("top-p", "draw from the smallest set whose probabilities reach P", "P", "1");
  add_device_option(line);
  return line;
}

std::string read_prompt(const CommandLine& line) {
  require(!line.given("prompt") || !line.given("prompt-file"), "--prompt and --prompt-file exclude each other");
  if (!line.given("prompt-file")) return line.text("prompt");
  const std::string path = line.text("prompt-file");
  return path == "-" ? read_standard_input(kLongestPrompt) : read_text_file(path, kLongestPrompt);
}

GenerateOptions settings_of(const CommandLine& line) {
  require(line.given("checkpoint"), "say which model: --checkpoint runs/NAME");
  const std::string device = device_option("generate", line);
  const double top_p = line.number("top-p", 0, 1);
  require(top_p > 0, "--top-p: must be above 0 and at most 1, not \"", line.text("top-p"), "\"");
  GenerateOptions settings{
      .checkpoint = line.text("checkpoint"),
      .prompt = {},
      .tokens = line.integer("tokens", 1, UINT32_MAX),
      .sampling = {.temperature = line.number("temperature", 0), .top_k = line.integer("top-k", 0), .top_p = top_p},
      .seed = static_cast<uint64_t>(line.integer("seed", 0)),
      .device = device,
      .slide = line.flag("slide")};
  settings.prompt = read_prompt(line);  // last: it may wait for somebody to write
  return settings;
}

int run(int argc, char** argv) {
  CommandLine line = options();
  if (!line.parse(argc, argv, std::cout)) return 0;
  install_signal_handlers("generate", "ending with what is written so far", nullptr);
  const int64_t samples = line.integer("samples", 1, 1'000'000);
  const GenerateOptions settings = settings_of(line);
  Generator generator(settings);
  for (const std::string& warning : generator.warnings()) std::cerr << "generate: warning: " << warning << '\n';
  bool told = false;
  for (int64_t i = 0; i < samples && !stop_requested(); ++i) {
    const uint64_t seed = settings.seed + static_cast<uint64_t>(i);
    if (samples > 1) std::cout << "---- sample " << i + 1 << " of " << samples << ", seed " << seed << '\n';
    const Generated made = generator.sample(seed, [](std::string_view bytes) {
      std::cout << bytes;
      flush_output();
    });
    std::cout << '\n';
    flush_output();
    if (made.end == GenerationEnd::kContextFull && !told) {
      std::cerr << "generate: the model's context of " << generator.context_length()
                << " tokens is full: " << made.prompt_tokens << " of the prompt, and " << made.tokens << " of the "
                << settings.tokens << " asked for; --slide goes on\n";
      told = true;
    }
  }
  return stop_signal() == 0 ? 0 : 128 + stop_signal();
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("generate", [&] { return scfa::run(argc, argv); });
}

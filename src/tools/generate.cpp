// ./generate --checkpoint DIR --prompt TEXT: text from a trained model.
#include <cxxopts.hpp>
#include <iostream>

#include "core/program.h"
#include "train/generate.h"

namespace scfa {
namespace {

int run(int argc, char** argv) {
  cxxopts::Options options("generate", "Continues a prompt with a trained model.\n");
  options.custom_help("--checkpoint DIR --prompt TEXT [option ...]");
  options.add_options()                                                                                        //
      ("checkpoint", "a checkpoint, or a run (its newest checkpoint)", cxxopts::value<std::string>(), "DIR")   //
      ("prompt", "text to continue", cxxopts::value<std::string>()->default_value(""), "TEXT")                 //
      ("tokens", "how many tokens to make at most", cxxopts::value<int64_t>()->default_value("200"), "N")      //
      ("temperature", "0 takes the likeliest token", cxxopts::value<double>()->default_value("0.8"), "X")      //
      ("top-k", "draw from the k likeliest; 0: from all", cxxopts::value<int64_t>()->default_value("0"), "K")  //
      ("top-p", "draw from the fewest that reach p", cxxopts::value<double>()->default_value("1"), "P")        //
      ("seed", "of the draws", cxxopts::value<uint64_t>()->default_value("1"), "N")                            //
      ("device", "auto takes the GPU if there is one", cxxopts::value<std::string>()->default_value("auto"),
       "auto|cpu|gpu")("help", "this text");
  const cxxopts::ParseResult arguments = options.parse(argc, argv);
  if (arguments.count("help")) return std::cout << options.help(), 0;
  require(arguments.unmatched().empty(), arguments.unmatched().empty() ? "" : arguments.unmatched().front(),
          ": is not an option; --help lists them");
  require(arguments.count("checkpoint") == 1, "say which model: --checkpoint runs/NAME");
  const auto device = arguments["device"].as<std::string>();
  require(device == "auto" || device == "cpu" || device == "gpu", "--device: must be auto, cpu or gpu, not ", device);
  const GenerateOptions settings{.checkpoint = arguments["checkpoint"].as<std::string>(),
                                 .prompt = arguments["prompt"].as<std::string>(),
                                 .tokens = arguments["tokens"].as<int64_t>(),
                                 .sampling = {.temperature = arguments["temperature"].as<double>(),
                                              .top_k = arguments["top-k"].as<int64_t>(),
                                              .top_p = arguments["top-p"].as<double>()},
                                 .seed = arguments["seed"].as<uint64_t>(),
                                 .device = device};
  generate(settings, [](std::string_view bytes) { std::cout << bytes << std::flush; });
  std::cout << std::endl;
  return 0;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("generate", [&] { return scfa::run(argc, argv); });
}

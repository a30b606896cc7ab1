// ./bench attention: times kernels on this machine.
#include <cxxopts.hpp>
#include <iostream>

#include "tools/bench_attention.h"
#include "tools/tool_main.h"

namespace scfa {
namespace {

int run(int argc, char** argv) {
  cxxopts::Options options("bench", "Times kernels on this machine.\n");
  options.custom_help("attention [option ...]").positional_help("");
  options.add_options()                                                                                           //
      ("what", "attention: dense, hash and drop, forward and backward", cxxopts::value<std::string>())            //
      ("length", "sequence lengths T", cxxopts::value<std::vector<int64_t>>()->default_value("8192"), "N,N,...")  //
      ("batch", "sequences", cxxopts::value<int64_t>()->default_value("1"), "N")                                  //
      ("heads", "heads a sequence", cxxopts::value<int64_t>()->default_value("4"), "N")                           //
      ("head-dim", "width of a head", cxxopts::value<int64_t>()->default_value("64"), "N")                        //
      ("repeats", "timed runs of each case", cxxopts::value<int>()->default_value("5"), "N")                      //
      ("csv", "also write the table here", cxxopts::value<std::string>()->default_value(""), "FILE")              //
      ("help", "this text");
  options.parse_positional({"what"});
  const cxxopts::ParseResult arguments = options.parse(argc, argv);
  if (arguments.count("help")) return std::cout << options.help(), 0;
  require(arguments.count("what") == 1, "say what to time: ./bench attention (--help lists the options)");
  const auto what = arguments["what"].as<std::string>();
  require(what == "attention", what, ": is not something to time; there is: attention");
  AttentionCase shape;
  shape.batch = arguments["batch"].as<int64_t>();
  shape.heads = arguments["heads"].as<int64_t>();
  shape.head_dim = arguments["head-dim"].as<int64_t>();
  const auto lengths = arguments["length"].as<std::vector<int64_t>>();
  const int repeats = arguments["repeats"].as<int>();
  require(repeats >= 1, "--repeats: must be at least 1, not ", repeats);
  for (const int64_t size :
       {shape.batch, shape.heads, shape.head_dim, *std::min_element(lengths.begin(), lengths.end())})
    require(size >= 1, "sizes must be at least 1, not ", size);
  bench_attention(lengths, shape, repeats, arguments["csv"].as<std::string>());
  return 0;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::wait_passively(argv);
  return scfa::tool_main("bench", [&] { return scfa::run(argc, argv); });
}

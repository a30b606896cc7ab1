// ./bench attention, ./bench op: times kernels on this machine.
#include <cxxopts.hpp>
#include <iostream>

#include "core/human.h"
#include "core/program.h"
#include "tools/bench_attention.h"
#include "tools/bench_ops.h"
#include "train/machine.h"

namespace scfa {
namespace {

constexpr const char* kWhat = "say what to time: ./bench attention, ./bench op NAME ... (--help lists the options)";

std::string joined_op_names() {
  std::string text;
  for (const std::string& name : op_names()) text += (text.empty() ? "" : ", ") + name;
  return text;
}

int run(int argc, char** argv) {
  cxxopts::Options options("bench", "Times kernels on this machine, medians of several runs from cold caches.\n");
  options.custom_help("attention [option ...]\n  bench op NAME ... [option ...]").positional_help("");
  options.add_options()                                                                                              //
      ("what", "attention: dense, hash and drop, forward and backward; op: single ops, \"all\" for each",            //
       cxxopts::value<std::vector<std::string>>())                                                                   //
      ("device", "auto, cpu or gpu", cxxopts::value<std::string>()->default_value("auto"), "WHERE")                  //
      ("length", "sequence lengths T; op: one (8192; on the CPU 1024)", cxxopts::value<std::vector<int64_t>>(),      //
       "N,N,...")                                                                                                    //
      ("batch", "sequences (attention on the GPU 16, on the CPU 1; op: 8 and 1)", cxxopts::value<int64_t>(), "N")    //
      ("heads", "heads a sequence (12; attention on the CPU 4)", cxxopts::value<int64_t>(), "N")                     //
      ("head-dim", "width of a head", cxxopts::value<int64_t>()->default_value("64"), "N")                           //
      ("width", "op: width of the model", cxxopts::value<int64_t>()->default_value("768"), "N")                      //
      ("outputs", "op: outputs of a product, width of GELU", cxxopts::value<int64_t>()->default_value("3072"), "N")  //
      ("vocabulary", "op: rows of the embedding", cxxopts::value<int64_t>()->default_value("50304"), "N")            //
      ("parameters", "op: elements of what the optimizer updates", cxxopts::value<int64_t>(), "N")                   //
      ("pattern", "op: dense, hash or drop", cxxopts::value<std::string>()->default_value("hash"), "NAME")           //
      ("buckets", "op: buckets of hash", cxxopts::value<int64_t>()->default_value("16"), "N")                        //
      ("drop-rate", "op: share that drop leaves out", cxxopts::value<double>()->default_value("0.5"), "X")           //
      ("repeats", "timed runs of each case", cxxopts::value<int>()->default_value("5"), "N")                         //
      ("csv", "attention: also write the table here", cxxopts::value<std::string>()->default_value(""), "FILE")      //
      ("help", "this text");
  options.parse_positional({"what"});
  const cxxopts::ParseResult arguments = options.parse(argc, argv);
  if (arguments.count("help")) {
    std::cout << options.help() << "ops: " << joined_op_names() << '\n';
    return 0;
  }
  require(arguments.count("what") > 0, kWhat);
  auto what = arguments["what"].as<std::vector<std::string>>();
  const std::string mode = what.front();
  what.erase(what.begin());
  require(mode == "attention" || mode == "op", mode, ": is not something to time; there are: attention, op");
  require(mode == "op" || what.empty(), what.empty() ? "" : what.front(), ": attention takes no names");

  const int repeats = arguments["repeats"].as<int>();
  require(repeats >= 1, "--repeats: must be at least 1, not ", repeats);
  for (const char* name : {"batch", "heads", "head-dim", "width", "outputs", "vocabulary", "parameters"})
    if (arguments.count(name))
      require(arguments[name].as<int64_t>() >= 1, "--", name, ": must be at least 1, not ",
              arguments[name].as<int64_t>());
  std::vector<int64_t> lengths;
  if (arguments.count("length")) lengths = arguments["length"].as<std::vector<int64_t>>();
  for (const int64_t length : lengths) require(length >= 1, "--length: must be at least 1, not ", length);
  const auto number = [&](const char* name, int64_t otherwise) {
    return arguments.count(name) ? arguments[name].as<int64_t>() : otherwise;
  };

  if (mode == "op" && what.empty()) {
    std::cout << "ops: " << joined_op_names() << '\n';
    return 0;
  }
  Context ctx(choose_device(arguments["device"].as<std::string>()));
  const bool gpu = ctx.on_gpu();
  if (mode == "attention") {
    AttentionCase shape;
    shape.batch = number("batch", gpu ? 16 : 1);
    shape.heads = number("heads", gpu ? 12 : 4);
    shape.head_dim = number("head-dim", 64);
    if (lengths.empty()) lengths = gpu ? std::vector<int64_t>{8192, 16384, 32768} : std::vector<int64_t>{8192};
    bench_attention(ctx, lengths, shape, repeats, arguments["csv"].as<std::string>());
    return 0;
  }
  require(lengths.size() <= 1, "--length: op takes one length");
  if (what == std::vector<std::string>{"all"}) what = op_names();
  OpShape shape;
  shape.length = lengths.empty() ? (gpu ? 8192 : 1024) : lengths.front();
  shape.rows = number("batch", gpu ? 8 : 1) * shape.length;
  shape.width = number("width", shape.width);
  shape.outputs = number("outputs", shape.outputs);
  shape.vocabulary = number("vocabulary", shape.vocabulary);
  shape.parameters = number("parameters", gpu ? 124'000'000 : 4'000'000);
  shape.heads = number("heads", shape.heads);
  shape.head_dim = number("head-dim", shape.head_dim);
  shape.pattern = {.pattern = arguments["pattern"].as<std::string>(),
                   .buckets = arguments["buckets"].as<int64_t>(),
                   .drop_rate = arguments["drop-rate"].as<double>(),
                   .attend_self = {}};
  validate(shape.pattern);
  bench_ops(ctx, what, shape, repeats);
  return 0;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("bench", [&] { return scfa::run(argc, argv); });
}

// ./bench attention, ./bench op, ./bench step: times kernels and training steps on this machine.
#include <algorithm>
#include <iostream>

#include "core/command_line.h"
#include "core/program.h"
#include "core/signals.h"
#include "tools/bench_attention.h"
#include "tools/bench_ops.h"
#include "tools/bench_step.h"
#include "train/checkpoint.h"
#include "train/device_option.h"
#include "train/machine.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

constexpr const char* kWhat =
    "say what to time: ./bench attention, ./bench op NAME ..., ./bench step CONFIG ... (--help lists the options)";

std::string joined_op_names() {
  std::string text;
  for (const std::string& name : op_names()) text += (text.empty() ? "" : ", ") + name;
  return text;
}

CommandLine options() {
  CommandLine line(
      "bench",
      "Times kernels on this machine, medians of several runs from cold caches, and whole training steps.\n\n"
      "Usage: bench attention [option ...]    patterns of attention, forward and backward\n"
      "       bench op NAME ... [option ...]  single ops, \"all\" for each; without NAME: their list\n"
      "       bench step CONFIG ... [option ...]  training steps of configs, on random tokens\n");
  line.allow_words();
  add_device_option(line);
  line.add_option("length", "sequence lengths T; op: one (8192; on the CPU 1024); step: instead of the config's",
                  "N,N,...");
  line.add_option("batch", "sequences (attention on the GPU 16, on the CPU 1; op: 8 and 1; step: the config's)", "N");
  line.add_option("heads", "heads (12; attention on the CPU 4)", "N");
  line.add_option("kv-heads", "attention: heads of keys and values, a divisor of --heads (as many)", "N");
  line.add_option("head-dim", "width of a head", "N", "64");
  line.add_option("width", "op: width of the model", "N", "768");
  line.add_option("outputs", "op: outputs of a linear layer, width of GELU", "N", "3072");
  line.add_option("vocabulary",
                  "op: rows of the embedding; step: entries, where the config leaves them to the text; by default "
                  "those of the text, if it is there",
                  "N", "50304");
  line.add_option("parameters", "op: elements of what the optimizer updates", "N");
  line.add_option("pattern", "op: dense, hash or drop", "NAME", "hash");
  line.add_option("buckets",
                  "buckets; attention: of hash, hash_balanced and reformer (hash 8,16,32, others 16); op: 16",
                  "N,N,...");
  line.add_option("drop-rate", "share that drop leaves out (attention 0.5,0.7; op 0.5)", "X,X,...");
  line.add_option("repeats", "timed runs of each case", "N", "5");
  line.add_option("patterns", "attention: rows of the table, such as dense,hash,window (all)", "NAME,NAME,...");
  line.add_option("checkpoint", "attention: take inputs from the layers of this model on text, instead of random data",
                  "DIR");
  line.add_option("data", "attention: the text for --checkpoint, a prepared set (that of its config)", "DIR");
  line.add_option("recompute", "step: what backward recomputes (the config's; for auto none)", "none|gelu|norms|block");
  line.add_option("precision", "step: precision of the training passes (the config's)", "auto|fp8");
  line.add_flag("profile", "step: also the time of each op, of one more step");
  line.add_option("csv", "attention, step: also write the table here", "FILE");
  return line;
}

// A size on the command line; where it is not given, what the device can take.
int64_t size(const CommandLine& line, const char* name, int64_t max, int64_t otherwise) {
  return line.given(name) ? line.integer(name, 1, max) : otherwise;
}

// Sizes beyond these would not fit any machine, and their GEMMs no integer.
constexpr int64_t kMaxRows = 1 << 24, kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxHeadDim = 1024;

// Sequences, of which all together have at most kMaxRows tokens.
int64_t batch_of(const CommandLine& line, int64_t longest, int64_t otherwise) {
  const int64_t batch = size(line, "batch", kMaxRows, otherwise);
  require(batch <= kMaxRows / longest, "--batch: ", batch, " sequences of ", longest, " tokens are more than ",
          kMaxRows, " tokens");
  return batch;
}

AttentionCase attention_case(const CommandLine& line, int64_t longest, bool gpu) {
  AttentionCase settings;
  AttentionShape& shape = settings.problem.shape;
  shape.B = batch_of(line, longest, gpu ? 16 : 1);
  shape.H = size(line, "heads", kMaxHeads, gpu ? 12 : 4);
  shape.D = line.integer("head-dim", 1, kMaxHeadDim);
  shape.H_kv = size(line, "kv-heads", kMaxHeads, shape.H);
  require(shape.H % shape.H_kv == 0, "--kv-heads: must be a divisor of the ", shape.H, " heads, not ", shape.H_kv);
  return settings;
}

std::vector<int64_t> bucket_counts(const CommandLine& line) {
  return line.integers("buckets", 1, kMaxSegments);
}

OpShape op_shape(const CommandLine& line, const std::vector<int64_t>& lengths, bool gpu) {
  require(lengths.size() <= 1, "--length: op takes one length");
  OpShape shape;
  shape.length = lengths.empty() ? (gpu ? 8192 : 1024) : lengths.front();
  shape.rows = batch_of(line, shape.length, gpu ? 8 : 1) * shape.length;
  shape.width = line.integer("width", 1, kMaxWidth);
  shape.outputs = line.integer("outputs", 1, kMaxWidth);
  shape.vocabulary = line.integer("vocabulary", 1, kMaxRows);
  shape.parameters = size(line, "parameters", int64_t{1} << 36, gpu ? 124'000'000 : 4'000'000);
  shape.heads = size(line, "heads", kMaxHeads, shape.heads);
  shape.head_dim = line.integer("head-dim", 1, kMaxHeadDim);
  const std::vector<int64_t> buckets = bucket_counts(line);
  const std::vector<double> drop_rates = line.numbers("drop-rate", 0, 1);
  require(buckets.size() <= 1, "--buckets: op takes one number");
  require(drop_rates.size() <= 1, "--drop-rate: op takes one share");
  shape.pattern = {.pattern = line.text("pattern"),
                   .buckets = buckets.empty() ? 16 : buckets.front(),
                   .drop_rate = drop_rates.empty() ? 0.5 : drop_rates.front(),
                   .attend_self = {}};
  validate(shape.pattern);
  return shape;
}

int run(int argc, char** argv) {
  CommandLine line = options();
  if (!line.parse(argc, argv, std::cout)) return 0;
  install_signal_handlers("bench", "ending after this run", nullptr);
  require(!line.words().empty(), kWhat);
  const std::string mode = line.words().front();
  std::vector<std::string> names(line.words().begin() + 1, line.words().end());
  require(mode == "attention" || mode == "op" || mode == "step", abbreviate(mode),
          ": is not something to time; there are: attention, op, step");
  require(mode != "attention" || names.empty(), names.empty() ? "" : names.front(), ": attention takes no names");
  require(mode != "step" || !names.empty(), "bench step: say of which config, such as configs/hash_8k.json");
  require(mode != "op" || !line.given("csv"), "--csv: only attention and step have a table to write");
  require(mode == "attention" || !line.given("patterns"), "--patterns: only attention has a table of them");
  require(mode == "attention" || !line.given("checkpoint"),
          "--checkpoint: only attention takes its inputs from a model");
  require(!line.given("checkpoint") || !line.text("checkpoint").empty(), "--checkpoint=: names no folder");
  require(!line.given("data") || line.given("checkpoint"), "--data: is the text for --checkpoint, which is not given");
  for (const char* name : {"heads", "kv-heads", "head-dim"})
    require(!line.given("checkpoint") || !line.given(name), "--", name, ": the model of --checkpoint says it");
  require(mode == "attention" || !line.given("kv-heads"), "--kv-heads: only attention has heads of keys and values");
  for (const char* name : {"heads", "head-dim", "width", "outputs", "parameters", "pattern", "buckets", "drop-rate"})
    require(mode != "step" || !line.given(name), "--", name, ": step takes it from the config");
  const std::string recompute = line.text("recompute");
  require(!line.given("recompute") || recompute == "none" || recompute == "gelu" || recompute == "norms" ||
              recompute == "block",
          "--recompute: must be none, gelu, norms or block, not \"", abbreviate(recompute), "\"");
  const std::string precision = line.text("precision");
  require(!line.given("precision") || precision == "auto" || precision == "fp8",
          "--precision: must be auto or fp8, not \"", abbreviate(precision), "\"");
  require(mode == "step" || !line.given("precision"), "--precision: only step has a precision to choose");
  require(mode == "step" || !line.given("profile"), "--profile: only step has a profile of ops");
  require(mode == "step" || !line.given("recompute"), "--recompute: only step has a backward pass of whole blocks");
  require(!line.given("csv") || !line.text("csv").empty(), "--csv=: names no file");
  const std::string device = device_option("bench", line);
  const auto repeats = static_cast<int>(line.integer("repeats", 1, 1'000'000));
  std::vector<int64_t> lengths = line.integers("length", 1, kMaxRows);
  if (mode == "op" && names.empty()) {
    std::cout << "ops: " << joined_op_names() << '\n';
    return 0;
  }
  std::vector<StepCase> cases;
  if (mode == "step")
    cases = step_cases(names, {.lengths = lengths,
                               .sequences = size(line, "batch", kMaxRows, 0),
                               .vocabulary = line.integer("vocabulary", 1, kMaxRows),
                               .vocabulary_of_text = !line.given("vocabulary"),
                               .recompute = recompute,
                               .precision = precision});
  Context ctx(choose_device(device));
  if (mode == "step") {
    bench_steps(ctx, cases, repeats, line.given("profile"), line.text("csv"));
    return 0;
  }
  if (mode == "attention") {
    std::string checkpoint = line.text("checkpoint");
    if (!checkpoint.empty()) {
      const CheckpointState state = find_checkpoint(checkpoint);
      for (const std::string& warning : state.skipped) std::cerr << "bench: warning: " << warning << '\n';
      if (lengths.empty()) lengths = {state.config.model.sequence_length};
      checkpoint = state.path;
    }
    if (lengths.empty()) lengths = ctx.on_gpu() ? std::vector<int64_t>{8192, 16384, 32768} : std::vector<int64_t>{8192};
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    bench_attention(ctx, {.lengths = lengths,
                          .shape = attention_case(line, longest, ctx.on_gpu()),
                          .repeats = repeats,
                          .names = line.comma_list("patterns"),
                          .buckets = bucket_counts(line),
                          .drop_rates = line.numbers("drop-rate", 0, 1),
                          .checkpoint = checkpoint,
                          .data = line.text("data"),
                          .csv = line.text("csv")});
    return 0;
  }
  if (names == std::vector<std::string>{"all"}) names = op_names();
  bench_ops(ctx, names, op_shape(line, lengths, ctx.on_gpu()), repeats);
  return 0;
}

}  // namespace
}  // namespace scfa

int main(int argc, char** argv) {
  scfa::start_program(argv);
  return scfa::run_program("bench", [&] { return scfa::run(argc, argv); });
}

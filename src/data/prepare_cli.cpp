#include "data/prepare_cli.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iomanip>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "core/command_line.h"
#include "core/error.h"
#include "data/bigram.h"
#include "data/export.h"
#include "data/prepare.h"
#include "data/progress.h"
#include "data/synthetic.h"
#include "data/verify.h"

namespace scfa {

namespace {

constexpr const char* kUsage = R"(Turns text into token shards for training.

Usage: prepare_data --input PATH... --output DIR [options]    prepare a set
       prepare_data verify DIR                                check every shard of a set against its manifest
       prepare_data info DIR [--bigram]                       what a set holds
       prepare_data export DIR --format FORMAT --output DIR2  write a set as nanoGPT or llm.c read it
       prepare_data synthetic TASK --output DIR [options]     synthetic sequences that test recall

Inputs: text files (one document each), JSON lines (.jsonl .ndjson .json, one document per line), token files of nanoGPT
and llm.c (.bin), tar archives of these, folders of these, and - for standard input. All but folders may be compressed
by zstd or gzip.

  prepare_data --input book.txt notes/ --tokenizer gpt2 --output data/mine --val-fraction 0.1
  prepare_data --input openwebtext2.jsonl.zst.tar --output data/openwebtext2
  prepare_data synthetic mqar --length 1024 --pairs 16 --output data/mqar_1k
  xz -dc part.txt.xz | prepare_data --input - --tokenizer bytes --output data/part
)";

CommandLine make_command_line() {
  CommandLine line("prepare_data", kUsage);
  line.add_list("input", "files and folders, several after one --input or one each; - is standard input", "PATH...");
  line.add_option("output", "the folder to write; it appears once all of it is complete", "DIR");
  line.add_option("tokenizer", "gpt2 (50257 entries) or bytes (257)", "NAME", "gpt2");
  line.add_option("field", "JSON lines: the field that holds the text, a string or a list of strings", "NAME", "text");
  line.add_option("separator", "text files: the line between two documents, such as '<|endoftext|>'", "LINE");
  line.add_option("stdin-format", "text, jsonl or auto (jsonl if it starts with a brace)", "FORMAT", "auto");
  line.add_option("val-fraction",
                  "share of the documents held out for validation (default: 0.0005); of a text with too few documents "
                  "the last tokens are held out (default: 0.1 of them, at most a million)",
                  "X");
  line.add_option("seed", "chooses which documents are held out; of synthetic sequences: draws them", "N", "0");
  line.add_option("shard-tokens", "most tokens per shard", "N", "100000000");
  line.add_option("threads", "threads that encode; 0: one per core, at most 64", "N", "0");
  line.add_flag("overwrite", "replace a prepared set that is there");
  line.add_option("export", "also write the set in this format, nanogpt or llmc, into a folder of that name in it",
                  "FORMAT");
  line.add_option("format", "export: nanogpt or llmc", "FORMAT");
  line.add_option("length", "synthetic: tokens of a sequence, which is model.sequence_length", "N", "1024");
  line.add_option("sequences", "synthetic: sequences of the training split", "N", "20000");
  line.add_option("val-sequences", "synthetic: sequences of the validation split", "N", "512");
  line.add_option("pairs", "synthetic: keys of a sequence, each with a value (default: 8; of induction 1)", "N");
  line.add_option("value-length", "synthetic: tokens of a value (default: 1; of needle 4)", "N");
  line.add_option("vocabulary", "synthetic: entries; keys, values and filler have a third each", "N", "8192");
  line.add_option("distance", "synthetic: tokens from a key to where it is asked for (default: all there is room for)",
                  "MIN-MAX");
  line.add_flag("bigram", "info: validation loss of a unigram and a bigram model of the training tokens");
  line.allow_words();
  return line;
}

// What a command takes; the first is what there is to do without one.
struct Command {
  std::string_view name;
  std::vector<std::string_view> options;
};
const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"",
       {"input", "output", "tokenizer", "field", "separator", "stdin-format", "val-fraction", "seed", "shard-tokens",
        "threads", "overwrite", "export"}},
      {"verify", {}},
      {"info", {"bigram"}},
      {"export", {"format", "output"}},
      {"synthetic",
       {"output", "overwrite", "seed", "shard-tokens", "length", "sequences", "val-sequences", "pairs", "value-length",
        "vocabulary", "distance"}},
  };
  return all;
}

// Refuses a command that there is none of, and options that are not the command's.
std::string command_of(const CommandLine& line) {
  const std::string name = line.words().empty() ? "" : line.words()[0];
  const auto command =
      std::find_if(commands().begin(), commands().end(), [&](const Command& c) { return c.name == name; });
  require(command != commands().end(), "'", abbreviate(name),
          "' is no command; there are verify, info, export and synthetic, and --input prepares a set");
  for (const auto& [option, value] : line.values())
    require(std::find(command->options.begin(), command->options.end(), option) != command->options.end(), "--", option,
            name.empty() ? concat(": belongs to the command ", option == "format"   ? "export"
                                                               : option == "bigram" ? "info"
                                                                                    : "synthetic")
                         : concat(": is not an option of the command ", name));
  require(name != "synthetic" || line.words().size() == 2, "synthetic: name one task: mqar, induction or needle");
  require(name.empty() || line.words().size() == 2, name, ": name one prepared set, as in: prepare_data ", name,
          " data/NAME");
  return name;
}

PrepareOptions to_prepare_options(const CommandLine& line) {
  PrepareOptions options;
  options.input.inputs = line.list("input");
  options.input.field = line.text("field");
  options.input.separator = line.text("separator");
  options.input.stdin_format = line.text("stdin-format");
  options.set.directory = line.text("output");
  options.set.overwrite = line.flag("overwrite");
  options.set.shard_tokens = line.integer("shard-tokens", 1, int64_t{1} << 40);
  if (line.given("val-fraction")) options.set.val_fraction = line.number("val-fraction", 0, 1);
  options.set.seed = static_cast<uint64_t>(line.integer("seed", 0));
  options.tokenizer = line.text("tokenizer");
  options.threads = static_cast<int>(line.integer("threads", 0, kMaxAskedThreads));
  options.export_format = line.text("export");
  return options;
}

// "MIN-MAX"
void parse_distance(const std::string& text, SyntheticOptions& options) {
  const size_t dash = text.find('-');
  const auto number = [&](std::string_view part) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    require(error == std::errc() && end == part.data() + part.size() && value > 0,
            "--distance: must be MIN-MAX, such as 64-512, not ", abbreviate(text));
    return value;
  };
  const std::string_view all = text;
  options.min_distance = number(all.substr(0, dash));
  options.max_distance = number(dash == std::string::npos ? "" : all.substr(dash + 1));
}

SyntheticOptions to_synthetic_options(const CommandLine& line) {
  SyntheticOptions options;
  options.task = parse_synthetic_task(line.words()[1]);
  options.set.directory = line.text("output");
  options.set.overwrite = line.flag("overwrite");
  options.set.shard_tokens = line.integer("shard-tokens", 1, int64_t{1} << 40);
  options.set.seed = static_cast<uint64_t>(line.integer("seed", 0));
  constexpr int64_t kMost = int64_t{1} << 40;  // each option has its own limits, which are checked together
  options.length = line.integer("length", 0, kMost);
  options.sequences = line.integer("sequences", 0, kMost);
  options.val_sequences = line.integer("val-sequences", 0, kMost);
  options.vocabulary = line.integer("vocabulary", 0, kMost);
  options.pairs = line.given("pairs")                         ? line.integer("pairs", 0, kMost)
                  : options.task == SyntheticTask::kInduction ? 1
                                                              : 8;
  options.value_length = line.given("value-length")               ? line.integer("value-length", 0, kMost)
                         : options.task == SyntheticTask::kNeedle ? 4
                                                                  : 1;
  if (line.given("distance")) parse_distance(line.text("distance"), options);
  return options;
}

std::string counted(int64_t count, const char* what) {
  return concat(count, " ", what, count == 1 ? "" : "s");
}

void print_splits(const Manifest& manifest, std::ostream& out) {
  for (const Split which : {Split::kTrain, Split::kVal}) {
    const SplitInfo& split = manifest.split(which);
    out << std::left << std::setw(7) << name_of(which) << counted(split.tokens(), "token") << ", "
        << (manifest.sequence_length > 0
                ? counted(split.documents(), "sequence") + ", " + counted(split.counted(), "token") +
                      " that count in the loss, "
                : counted(split.documents(), "document") + ", " + counted(split.bytes(), "byte") + " of text, ")
        << counted(static_cast<int64_t>(split.shards.size()), "shard") << "\n";
  }
}

void print_tail(const Manifest& manifest, bool asked, std::ostream& out) {
  const auto val = static_cast<double>(manifest.val.tokens()), train = static_cast<double>(manifest.train.tokens());
  out << "too few documents to choose from: the last " << counted(manifest.val.tokens(), "token") << " of the text ("
      << std::fixed << std::setprecision(2) << 100 * val / (val + train) << " %) are the validation split"
      << (asked ? "" : "; --val-fraction X asks for another share") << "\n";
}

void prepare_command(const PrepareOptions& options, std::ostream& out, int log, const std::atomic<bool>* stop) {
  ProgressMeter meter(log);
  const PrepareResult result = prepare(
      options, [&](const PrepareProgress& progress) { meter.update(progress); }, stop);
  meter.finish();
  print_splits(result.manifest, out);
  if (result.manifest.val_is_tail) print_tail(result.manifest, options.set.val_fraction.has_value(), out);
  if (result.skipped_files > 0) out << counted(result.skipped_files, "file") << " with other extensions not read\n";
  if (result.skipped_links > 0)
    out << counted(result.skipped_links, "link") << " not followed: hard and symbolic links within archives, links to "
        << "folders, broken links\n";
  for (const std::string& path : result.left_over)
    out << "kept, as it is not part of the replaced set: " << path << "\n";
  const double bytes = static_cast<double>(result.manifest.train.bytes() + result.manifest.val.bytes());
  out << "wrote " << options.set.directory << " in " << std::fixed << std::setprecision(1) << meter.seconds() << " s, "
      << bytes / 1e6 / meter.seconds() << " MB/s\n";
}

void synthetic_command(const SyntheticOptions& options, std::ostream& out, int log) {
  ProgressMeter meter(log);
  const Manifest manifest = write_synthetic_set(options, [&](int64_t done, int64_t all) {
    const int64_t tokens = done * options.length;
    meter.update({.read_bytes = done, .total_bytes = all, .text_bytes = 2 * tokens, .tokens = tokens});
  });
  meter.finish();
  print_splits(manifest, out);
  out << "wrote " << options.set.directory << "\n";
}

void info_command(const std::string& directory, bool bigram, std::ostream& out) {
  const Manifest manifest = read_manifest(directory);
  out << "tokenizer " << manifest.tokenizer << ", " << manifest.vocab_size << " entries, end-of-text "
      << manifest.end_of_text << ", stored as " << name_of(manifest.dtype);
  if (manifest.sequence_length > 0) out << ", synthetic sequences of " << manifest.sequence_length << " tokens";
  out << "\n";
  print_splits(manifest, out);
  if (!bigram) return;
  const TokenSet train(directory, Split::kTrain), val(directory, Split::kVal);
  for (const TokenSet* set : {&train, &val}) verify_shards(*set);
  const BigramLoss loss = measure_bigram(train, val);
  const auto line = [&](const char* name, double nats) {
    out << std::fixed << name << ": " << std::setprecision(4) << nats << " nats a token on validation (perplexity "
        << std::setprecision(2) << std::exp(nats) << ")\n";
  };
  line("unigram", loss.unigram);
  line("bigram", loss.bigram);
}

void verify_command(const std::string& directory, std::ostream& out) {
  print_splits(verify_set(directory), out);
  out << directory << ": all shards are as the manifest says\n";
}

void export_command(const std::string& directory, const CommandLine& line, std::ostream& out) {
  const std::string output = line.text("output");
  require(!output.empty(), "export: name the folder to write with --output");
  for (const std::string& name : export_set(directory, parse_export_format(line.text("format")), output))
    out << "wrote " << output << "/" << name << "\n";
}

}  // namespace

int run_prepare_data(int argc, const char* const* argv, std::ostream& out, int log, const std::atomic<bool>* stop) {
  CommandLine line = make_command_line();
  if (!line.parse(argc, argv, out)) return 0;
  const std::string command = command_of(line);
  if (command.empty()) prepare_command(to_prepare_options(line), out, log, stop);
  if (command == "verify") verify_command(line.words()[1], out);
  if (command == "info") info_command(line.words()[1], line.flag("bigram"), out);
  if (command == "synthetic") synthetic_command(to_synthetic_options(line), out, log);
  if (command == "export") export_command(line.words()[1], line, out);
  return 0;
}

}  // namespace scfa

#include "data/prepare_cli.h"

#include <algorithm>
#include <cmath>
#include <cxxopts.hpp>
#include <iomanip>
#include <ostream>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/bigram.h"
#include "data/export.h"
#include "data/prepare.h"
#include "data/progress.h"
#include "data/verify.h"

namespace scfa {

namespace {

using Arguments = std::vector<std::string>;

constexpr const char* kUsage = R"(Turns text into token shards for training.

  prepare_data --input PATH... --output DIR [options]    prepare a set
  prepare_data verify DIR                                check every shard of a set against its manifest
  prepare_data info DIR [--bigram]                       what a set holds
  prepare_data export DIR --form FORM --output DIR2      write a set as nanoGPT or llm.c read it

Inputs: text files (a document each), JSON lines (.jsonl .ndjson .json, a document a line), token files of nanoGPT and
llm.c (.bin), tar archives of these, folders of these, and - for standard input; text and JSON lines may be compressed
by zstd or gzip, archives too.

  prepare_data --input book.txt notes/ --tokenizer gpt2 --output data/mine --val-fraction 0.1
  prepare_data --input openwebtext2.jsonl.zst.tar --output data/openwebtext2
  xz -dc part.txt.xz | prepare_data --input - --tokenizer bytes --output data/part
)";

cxxopts::Options make_options() {
  cxxopts::Options options("prepare_data");
  cxxopts::OptionAdder add = options.add_options();
  const auto text = [](const char* value) { return cxxopts::value<std::string>()->default_value(value); };
  add("input", "files and folders, several after one --input or one each; - is standard input", text(""), "PATH...");
  add("output", "the folder to write; it appears once all of it is complete", text(""), "DIR");
  add("tokenizer", "gpt2 (50257 entries) or bytes (257)", text("gpt2"), "NAME");
  add("field", "JSON lines: the field that holds the text, a string or a list of strings", text("text"), "NAME");
  add("separator", "text files: the line between two documents, such as '<|endoftext|>'", text(""), "LINE");
  add("stdin-format", "text, jsonl or auto (jsonl if it starts with a brace)", text("auto"), "FORMAT");
  add("val-fraction", "share of the documents held out for validation; of a set with too few, the last tokens",
      text("0.0005"), "X");
  add("seed", "chooses which documents are held out", text("0"), "N");
  add("shard-tokens", "tokens a shard at most", text("100000000"), "N");
  add("threads", "threads that encode; 0: one a core", text("0"), "N");
  add("overwrite", "replace a prepared set that is there");
  add("export", "also write the set in this form, nanogpt or llmc, into a folder of that name in it", text(""), "FORM");
  add("form", "of the command export: nanogpt or llmc", text(""), "FORM");
  add("bigram", "of the command info: validation loss of a unigram and a bigram model of the training tokens");
  add("h,help", "this text");
  return options;
}

// Takes "--input A B C" out of the arguments: all that follows up to the next option.
Arguments take_inputs(Arguments& arguments) {
  Arguments inputs, rest;
  bool within = false;
  for (const std::string& argument : arguments) {
    if (argument == "--input") {
      within = true;
    } else if (argument.starts_with("--input=")) {
      inputs.push_back(argument.substr(8));
    } else if (within && (argument == "-" || !argument.starts_with('-'))) {
      inputs.push_back(argument);
    } else {
      within = false;
      rest.push_back(argument);
    }
  }
  arguments = rest;
  return inputs;
}

cxxopts::ParseResult parse(cxxopts::Options& options, const Arguments& arguments) {
  std::vector<const char*> argv{"prepare_data"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  try {
    return options.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const cxxopts::exceptions::exception& error) {
    fail(error.what(), "; prepare_data --help lists the options");
  }
}

template <class Number>
Number number(const cxxopts::ParseResult& given, const char* option) {
  const std::string text = given[option].as<std::string>();
  std::istringstream stream(text);
  Number value{};
  stream >> value;
  require(!stream.fail() && stream.peek() == EOF && (std::is_signed_v<Number> || text[0] != '-'), "--", option, ": '",
          text, "' is not a number that fits");
  return value;
}

PrepareOptions to_prepare_options(const cxxopts::ParseResult& given, Arguments inputs) {
  PrepareOptions options;
  options.input.inputs = std::move(inputs);
  options.input.field = given["field"].as<std::string>();
  options.input.separator = given["separator"].as<std::string>();
  options.input.stdin_format = given["stdin-format"].as<std::string>();
  options.set.directory = given["output"].as<std::string>();
  options.set.overwrite = given.count("overwrite") > 0;
  options.set.shard_tokens = number<int64_t>(given, "shard-tokens");
  options.set.val_fraction = number<double>(given, "val-fraction");
  options.set.seed = number<uint64_t>(given, "seed");
  options.tokenizer = given["tokenizer"].as<std::string>();
  options.threads = number<int>(given, "threads");
  options.export_form = given["export"].as<std::string>();
  return options;
}

std::string counted(int64_t count, const char* what) {
  return concat(count, " ", what, count == 1 ? "" : "s");
}

void print_splits(const Manifest& manifest, std::ostream& out) {
  for (const Split which : {Split::kTrain, Split::kVal}) {
    const SplitInfo& split = manifest.split(which);
    out << std::left << std::setw(7) << name_of(which) << counted(split.tokens(), "token") << ", "
        << counted(split.documents(), "document") << ", " << counted(split.bytes(), "byte") << " of text, "
        << counted(static_cast<int64_t>(split.shards.size()), "shard") << "\n";
  }
}

void prepare_command(const PrepareOptions& options, std::ostream& out, std::ostream& log, bool terminal,
                     const std::atomic<bool>* stop) {
  ProgressMeter meter(log, terminal);
  PrepareResult result;
  try {
    result = prepare(
        options, [&](const PrepareProgress& progress) { meter.update(progress); }, stop);
  } catch (...) {
    meter.finish();
    throw;
  }
  meter.finish();
  print_splits(result.manifest, out);
  if (result.manifest.val_is_tail)
    out << "too few documents to choose from: the last tokens of the text are the validation split; --val-fraction "
           "says how many\n";
  if (result.skipped_files > 0) out << result.skipped_files << " files with other extensions were not read\n";
  for (const std::string& path : result.left_over)
    out << "not of the set that was replaced, and kept: " << path << "\n";
  const double bytes = static_cast<double>(result.manifest.train.bytes() + result.manifest.val.bytes());
  out << "wrote " << options.set.directory << " in " << std::fixed << std::setprecision(1) << meter.seconds() << " s, "
      << bytes / 1e6 / meter.seconds() << " MB/s\n";
}

void info_command(const std::string& directory, bool bigram, std::ostream& out) {
  const Manifest manifest = read_manifest(directory);
  out << "tokenizer " << manifest.tokenizer << ", " << manifest.vocab_size << " entries, end-of-text "
      << manifest.end_of_text << ", stored as " << name_of(manifest.dtype) << "\n";
  print_splits(manifest, out);
  if (!bigram) return;
  const TokenSet train(directory, Split::kTrain), val(directory, Split::kVal);
  const BigramLoss loss = measure_bigram(train, val);
  const auto line = [&](const char* name, double nats) {
    out << std::fixed << name << ": " << std::setprecision(4) << nats << " nats a token on validation (perplexity "
        << std::setprecision(2) << std::exp(nats) << ")\n";
  };
  line("unigram", loss.unigram);
  line("bigram", loss.bigram);
}

int run_command(const Arguments& words, const cxxopts::ParseResult& given, std::ostream& out) {
  const std::string& command = words[0];
  require(command == "verify" || command == "info" || command == "export", "'", command,
          "' is no command; there are verify, info and export, and --input prepares a set");
  require(words.size() == 2, command, ": name one prepared set, as in: prepare_data ", command, " data/NAME");
  if (command == "verify") {
    print_splits(verify_set(words[1]), out);
    out << words[1] << ": all shards are as the manifest says\n";
  } else if (command == "info") {
    info_command(words[1], given.count("bigram") > 0, out);
  } else {
    const std::string output = given["output"].as<std::string>();
    require(!output.empty(), "export: name the folder to write with --output");
    for (const std::string& name : export_set(words[1], parse_export_form(given["form"].as<std::string>()), output))
      out << "wrote " << output << "/" << name << "\n";
  }
  return 0;
}

}  // namespace

int run_prepare_data(int argc, const char* const* argv, std::ostream& out, std::ostream& log, bool log_is_terminal,
                     const std::atomic<bool>* stop) {
  Arguments arguments(argv + 1, argv + argc);
  Arguments inputs = take_inputs(arguments);
  cxxopts::Options options = make_options();
  const cxxopts::ParseResult given = parse(options, arguments);
  if (given.count("help") > 0 || argc == 1) {
    const std::string help = options.help();
    out << kUsage << help.substr(std::min(help.find("\n\n") + 1, help.size()));
    return argc == 1 ? 2 : 0;
  }
  if (!given.unmatched().empty()) {
    require(inputs.empty(), "'", given.unmatched()[0], "': what is it? Inputs follow --input");
    return run_command(given.unmatched(), given, out);
  }
  prepare_command(to_prepare_options(given, std::move(inputs)), out, log, log_is_terminal, stop);
  return 0;
}

}  // namespace scfa

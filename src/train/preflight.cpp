#include "train/preflight.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "core/human.h"
#include "data/checksum.h"
#include "data/verify.h"
#include "train/config_io.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/optimizer.h"
#include "train/replicas.h"
#include "train/step_estimate.h"

namespace scfa {

namespace {

constexpr const char* kAutomatic = "auto";

// 0.0012 s, 3.4 s, 1:23: two digits are what an estimate has.
std::string about(double seconds) {
  return seconds < 10 ? fmt::format("{:.2g} s", seconds) : format_duration(seconds);
}

const char* name_of(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kGelu:
      return "gelu";
    case Recompute::kNorms:
      return "norms";
    case Recompute::kBlock:
      break;
  }
  return "block";
}

// Keys that may change between a checkpoint and its resumption without the run becoming another one.
bool harmless(const std::string& key) {
  for (const char* prefix :
       {"name", "runs", "device", "eval.", "checkpoint.", "log.", "data.directory", "data.prepare", "data.verify",
        "train.watchdog_seconds", "train.stop_seconds", "train.zero", "train.overlap", "train.bucket_mb",
        "train.recompute", "train.graph", "train.check_replicas"})
    if (key.starts_with(prefix)) return true;
  return false;
}

// Whether a key whose values differ changes the shapes or the meaning of the parameters.
bool changes_parameters(const std::string& key, const GptConfig& a, const GptConfig& b) {
  if (key == "model.sequence_length") return !a.rotary() && !b.rotary();
  if (key == "model.n_kv_head") return a.kv_heads() != b.kv_heads();
  if (key == "model.vocab_padding") return a.padded_vocab() != b.padded_vocab();
  for (const char* other : {"model.n_layer", "model.n_head", "model.n_embd", "model.vocab_size", "model.bias",
                            "model.positions", "model.tied_embedding", "model.shared_qk"})
    if (key == other) return true;
  return false;
}

}  // namespace

Recompute recompute_of(const std::string& name) {
  for (const Recompute recompute : kRecomputes)
    if (name == name_of(recompute)) return recompute;
  fail("\"", name, "\" is not something to recompute; there are: none, gelu, norms, block");
}

Precision precision_of(const TrainConfig& config) {
  return config.precision == "fp8" ? Precision::kFp8 : Precision::kDefault;
}

void check_precision(const Context& ctx, const Config& config) {
  if (precision_of(config.train) != Precision::kFp8) return;
  validate_fp8(config.model, config.train.micro_batch_size * config.model.sequence_length);
  constexpr int kLeast = 89;  // Ada
  if (ctx.on_gpu())
    require(gpu::properties().compute >= kLeast, "train.precision fp8 needs a GPU of compute capability 8.9 or more; ",
            gpu::properties().name, " has ", gpu::properties().compute / 10, '.', gpu::properties().compute % 10);
}

int64_t total_bytes(const std::vector<Arena::Item>& items) {
  int64_t bytes = 0;
  for (const Arena::Item& item : items) bytes += item.bytes;
  return bytes;
}

std::vector<Arena::Item> training_memory_plan(const Context& ctx, const Config& config, int64_t micro_batch, int ranks,
                                              Recompute recompute) {
  const ParameterTable table(config.model);
  std::vector<Arena::Item> items =
      ParameterStore::memory_plan(ctx, config.model, store_options(config.train, ranks - 1, ranks));
  for (Arena::Item& item : items)
    if (item.name == "optimizer state") item.bytes += Optimizer::memory(table);
  if (const int64_t sums = Replicas::memory(ctx, table, config.train, ranks); sums > 0)
    items.push_back({"sums over ranks", sums});
  for (const Arena::Item& item :
       Gpt::memory_plan(ctx, config.model, micro_batch, Gpt::Mode::kTraining, 0, recompute, precision_of(config.train)))
    items.push_back(item);
  if (ctx.on_gpu()) items.push_back({"batches", Feeder::memory(ctx, micro_batch, config.model.sequence_length)});
  return items;
}

TokenSet open_split(const Config& config, Split split) {
  const std::string& directory = config.data.directory;
  const std::string command = config.data.prepare.empty()
                                  ? "./prepare_data --input FILES --tokenizer gpt2 --output " + directory
                                  : config.data.prepare;
  require(std::filesystem::exists(std::filesystem::path(directory) / kManifestFile), "data.directory: ", directory,
          " holds no prepared text; make it with: ", command, "   (docs/data.md says where to get text)");
  return {directory, split};
}

Config complete(Config config, const TokenSet& set, Device device) {
  const int64_t entries = set.manifest().vocab_size;
  require(config.model.vocab_size == 0 || config.model.vocab_size >= entries,
          "model.vocab_size: ", config.model.vocab_size, " is less than the ", entries, " entries of tokenizer ",
          set.manifest().tokenizer, " that made ", set.directory(), "; set it to 0 to follow the data");
  if (config.model.vocab_size == 0) config.model.vocab_size = entries;
  check_sequences(config, set);
  if (config.model.documents && config.model.end_of_text < 0) config.model.end_of_text = set.manifest().end_of_text;
  validate(config.model);
  if (device == Device::kGpu) validate_for_gpu(config.model);
  return config;
}

Recompute check_memory(const Context& ctx, const Config& config, int ranks, Console& console) {
  const int64_t available = available_memory(ctx), asked = config.train.micro_batch_size;
  const auto fits = [&](int64_t micro_batch, Recompute recompute) {
    if (precision_of(config.train) == Precision::kFp8 && !fp8_takes(micro_batch * config.model.sequence_length))
      return false;
    return available == 0 || total_bytes(training_memory_plan(ctx, config, micro_batch, ranks, recompute)) <= available;
  };
  const bool automatic = config.train.recompute == kAutomatic;
  Recompute recompute = automatic ? Recompute::kBlock : recompute_of(config.train.recompute);
  if (automatic) {
    const auto* const least = std::find_if(std::begin(kRecomputes), std::end(kRecomputes),
                                           [&](Recompute candidate) { return fits(asked, candidate); });
    if (least != std::end(kRecomputes)) recompute = *least;
  }
  const std::vector<Arena::Item> items = training_memory_plan(ctx, config, asked, ranks, recompute);
  std::string text = concat("memory", ranks > 1 ? concat(" of each of ", ranks, " ranks") : "", ": ") +
                     format_bytes(total_bytes(items)) + " (";
  for (size_t i = 0; i < items.size(); ++i)
    text += fmt::format("{}{} {}", i ? ", " : "", items[i].name, format_bytes(items[i].bytes));
  console.line(text + ")" + (recompute == Recompute::kNone ? "" : concat("; recomputes ", name_of(recompute))));
  if (available == 0 || total_bytes(items) <= available) {
    if (!ctx.on_gpu()) require_blas_memory(total_bytes(items));
    return recompute;
  }
  int64_t smaller = asked - 1;
  while (smaller > 0 && (config.train.batch_size % (smaller * ranks) != 0 || !fits(smaller, recompute))) --smaller;
  std::string advice = smaller > 0 ? concat("train.micro_batch_size ", smaller, " would fit") : "";
  for (const Recompute more : kRecomputes)
    if (!automatic && more > recompute && fits(asked, more)) {
      advice += concat(advice.empty() ? "" : ", and so would ", "train.recompute ", name_of(more),
                       advice.empty() ? " would fit" : "");
      break;
    }
  fail("memory: ", format_bytes(total_bytes(items)), " are needed and ", format_bytes(available), " are available",
       ctx.on_gpu() ? " on the GPU; " : "; ", advice.empty() ? "no micro-batch fits: make the model smaller" : advice);
}

std::string describe_limits(const Context& ctx, const Config& config, int ranks, Recompute recompute) {
  std::string flops;
  for (int64_t stage = 0; stage < config.model.stages(); ++stage)
    flops += (stage > 0 ? ", then " : "") + format_count(model_flops_per_token(config.model.at_stage(stage))) + "FLOPs";
  flops += " per token";
  if (const std::optional<DeviceRates> rates = rates_of(ctx))
    flops +=
        fmt::format("; about {} per step expected{}", about(expected_step_seconds(config, ranks, recompute, *rates)),
                    ranks > 1 ? ", without exchanges between ranks" : "");
  const int64_t available = available_memory(ctx);
  if (available == 0) return flops;
  if (config.train.recompute == kAutomatic) recompute = Recompute::kBlock;  // what it would come to
  const auto fit = [&](int64_t sequences) {  // the search needs that fewer fit too: sizes for fp8 are left to the error
    return total_bytes(training_memory_plan(ctx, config, sequences, ranks, recompute)) <= available;
  };
  // Kernels count rows of all heads in 32 bits, and a grid has up to 65,535 sequences.
  const int64_t rows = config.model.n_head * config.model.sequence_length;
  const int64_t most = std::min<int64_t>(65535, INT32_MAX / rows);
  int64_t fits = 0, too_many = most + 1;
  while (too_many - fits > 1) (fit((fits + too_many) / 2) ? fits : too_many) = (fits + too_many) / 2;
  return concat(flops, "; a micro-batch of up to ", fits, " sequences fits",
                recompute == Recompute::kNone ? "" : concat(" where ", name_of(recompute), " is computed again"));
}

void check_sequences(const Config& config, const TokenSet& set) {
  const int64_t length = set.manifest().sequence_length;
  if (length == 0) return;
  require(config.model.sequence_length == length, "model.sequence_length: ", config.model.sequence_length, ", but ",
          set.directory(), " is of synthetic sequences of ", length, " tokens");
  require(config.data.order == "epoch", "data.order: must be epoch for the synthetic sequences of ", set.directory(),
          ", whose windows are whole sequences");
}

void verify_data(const Config& config, const TokenSet& train_set, const TokenSet& val_set, Console& console) {
  require(to_json(train_set.manifest()) == to_json(val_set.manifest()), config.data.directory,
          ": was replaced while it was being opened; start again");
  if (!config.data.verify) return console.line("data: checksums not compared (data.verify is false)");
  const auto began = std::chrono::steady_clock::now();
  int64_t bytes = 0;
  for (const TokenSet* set : {&train_set, &val_set})
    bytes += verify_shards(*set, [&](int64_t done, int64_t all) {
      console.progress(static_cast<double>(done) / static_cast<double>(std::max<int64_t>(all, 1)),
                       concat("checking the ", name_of(set->split()), " split"));
    });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  console.line(fmt::format("data: {} checked in {:.1f} s", format_bytes(bytes), seconds.count()));
}

std::string data_fingerprint(const TokenSet& set) {
  Checksum checksum;
  for (const ShardInfo& shard : set.manifest().split(set.split()).shards) {
    checksum.update(&shard.tokens, sizeof shard.tokens);
    checksum.update(&shard.xxh3, sizeof shard.xxh3);
  }
  return to_hex(checksum.value());
}

void check_tokenizer(const CheckpointState& state, const TokenSet& set) {
  require(state.tokenizer == set.manifest().tokenizer, state.path, ": was trained on tokens of ", state.tokenizer,
          ", but ", set.directory(), " holds tokens of ", set.manifest().tokenizer);
  require(set.manifest().sequence_length == 0 || set.manifest().vocab_size == state.config.model.vocab_size, state.path,
          ": was trained on synthetic sequences of ", state.config.model.vocab_size, " entries, but ", set.directory(),
          " has ", set.manifest().vocab_size);
}

void check_initial_parameters(const CheckpointState& state, const Config& config, const TokenSet& set,
                              Console& console) {
  check_tokenizer(state, set);
  const GptConfig &theirs = state.config.model, &ours = config.model;
  std::string text = concat("parameters: those of ", state.path);
  for (const Difference& d : differences(state.config, config)) {
    require(!changes_parameters(d.key, theirs, ours), state.path, ": was trained with ", d.key, " = ", d.a, ", not ",
            d.b, d.key == "model.sequence_length" ? "; it may differ with model.positions rotary only" : "");
    const bool of_directions =
        d.key == "seed" && BucketBiasTable(theirs).length > 0 && BucketBiasTable(ours).length > 0;
    if (d.key.starts_with("model.") || of_directions) text += concat("; ", d.key, " was ", d.a, " and is now ", d.b);
    if (of_directions) text += ", so hash directions differ and bucket biases begin at 0";
  }
  if (describe_schedule(theirs) != describe_schedule(ours)) text += "; attention was " + describe_schedule(theirs);
  console.line(text);
}

void check_resumable(const CheckpointState& state, const Config& config, const TokenSet& set, const std::string& device,
                     int ranks, Console& console) {
  constexpr const char* kOther = ": the run will differ from an uninterrupted one";
  check_tokenizer(state, set);
  for (const Difference& d : differences(state.config, config)) {
    require(!d.key.starts_with("model.") && !d.key.starts_with("attention"), state.path, ": was trained with ", d.key,
            " = ", d.a, ", not ", d.b);
    if (d.key == "train.init_from") {
      console.warning(concat(d.key, " was ", d.a, " and is now ", d.b, ": of no effect, as the run has a checkpoint"));
      continue;
    }
    if (!harmless(d.key)) console.warning(concat(d.key, " was ", d.a, " and is now ", d.b, kOther));
  }
  if (state.data != data_fingerprint(set))
    console.warning(concat(config.data.directory, ": not the training text of the checkpoint", kOther));
  if (state.ranks != ranks)
    console.line(concat("ranks were ", state.ranks, " and are now ", ranks,
                        ": the same run, its sums rounded in another order"));
  if (state.device != device)
    console.warning(concat("the device was ", state.device, " and is now ", device, kOther));
  else if (device == "cpu" && state.threads != this_machine().threads)
    console.warning(concat("threads were ", state.threads, " and are now ", this_machine().threads, kOther));
}

}  // namespace scfa

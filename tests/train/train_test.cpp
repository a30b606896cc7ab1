#include "train/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/environment.h"
#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/safetensors_reader.h"
#include "support/tiny_run.h"
#include "train/checkpoint.h"
#include "train/generate.h"
#include "train/machine.h"
#include "train/optimizer.h"
#include "train/preflight.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TinyRun;

std::vector<nlohmann::json> read_metrics(const TinyRun& tiny) {
  std::vector<nlohmann::json> records;
  std::ifstream file(tiny.path("metrics.jsonl"));
  for (std::string line; std::getline(file, line);) records.push_back(nlohmann::json::parse(line));
  return records;
}

class TrainOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { test::skip_without(GetParam()); }
  std::string device() const { return name_of(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Train, TrainOn, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

TEST_P(TrainOn, LearnsAndWritesMetricsAndACheckpoint) {
  TinyRun tiny;
  const test::EnvironmentVariable cache("XDG_CACHE_HOME", tiny.folder / "cache");
  Config config = tiny.config("hash", device());
  config.train.steps = 60;
  const TrainResult result = tiny.run(config);
  EXPECT_EQ(read_checkpoint_state(result.checkpoint, Verify::kAll).gemms.empty(), GetParam() == Device::kCpu);
  const auto records = read_metrics(tiny);
  EXPECT_EQ(records.front()["type"], "header");
  EXPECT_EQ(records.front()["config"]["train"]["steps"], 60);
  EXPECT_TRUE(records.front().contains("commit") && records.front()["machine"].contains("cpu"));
  double first = 0, last = 0;
  int64_t steps = 0, evals = 0, profiles = 0;
  for (const auto& record : records) {
    if (record["type"] == "eval") {
      ++evals;
      EXPECT_NEAR(record["perplexity"], std::exp(record["loss"].get<double>()), 1e-9);
      EXPECT_EQ(record["tokens"], 7 * 64);
      EXPECT_GT(record["share_of_pairs"], 0.9 / static_cast<double>(config.model.patterns(0)[0].buckets));
      EXPECT_LT(record["share_of_pairs"], 1.0);
      ASSERT_EQ(record["effective_segments"].size(), config.model.n_layer);
      for (size_t layer = 0; layer < record["effective_segments"].size(); ++layer) {
        ASSERT_EQ(record["effective_segments"][layer].size(), config.model.n_head);
        for (size_t head = 0; head < record["effective_segments"][layer].size(); ++head) {
          const double effective = record["effective_segments"][layer][head];
          const double largest = record["largest_segment"][layer][head];
          EXPECT_GE(effective, 1.0);
          EXPECT_LE(effective, static_cast<double>(config.model.patterns(0)[0].buckets));
          EXPECT_LE(largest, 1.0);
          EXPECT_GE(largest, 1.0 / effective - 1e-3);  // the largest is at least as large as if all were of one size
        }
      }
    }
    if (record["type"] == "profile") {
      ++profiles;
      for (const char* op : {"attention_forward", "attention_backward", "linear_forward", "adamw"})
        EXPECT_GT(record["times"][op], 0.0) << op;
      EXPECT_GT(record["attention"], record["times"]["attention_forward"].get<double>());
      EXPECT_LT(record["attention"], record["seconds"].get<double>());
    }
    if (record["type"] != "step") continue;
    ++steps;
    if (steps == 1) first = record["loss"];
    last = record["loss"];
    EXPECT_EQ(record["step"], steps);
    EXPECT_EQ(record["tokens"], steps * 12 * 64);
    for (const char* key :
         {"lr", "grad_norm", "seconds", "data_wait", "tokens_per_s", "flops_per_s", "utilisation", "peak_memory_bytes"})
      EXPECT_TRUE(record.contains(key)) << key;
  }
  EXPECT_EQ(steps, 60);
  EXPECT_EQ(evals, 60 / 6 + 1);
  EXPECT_EQ(profiles, 60 / 10);
  EXPECT_NEAR(first, std::log(257.0), 0.1);
  EXPECT_LT(last, 3.0);
  EXPECT_LT(result.validation_loss.value(), 3.2);
  EXPECT_EQ(result.checkpoint, tiny.path("checkpoint-00000060"));
  EXPECT_TRUE(fs::exists(result.checkpoint + "/state.json"));
  for (const char* part : {"memory: ", "parameter gradients", "optimizer state", "tok/s", "validation loss",
                           "attention ", "effective segments "})
    EXPECT_NE(tiny.out.find(part), std::string::npos) << part;
  if (GetParam() == Device::kCpu) return;
  EXPECT_EQ(records.front()["machine"]["gpu"]["name"], gpu::properties().name);
  EXPECT_NE(tiny.out.find("device: " + gpu::properties().name), std::string::npos);
}

TEST(Train, TheCutIntoMicroBatchesDoesNotChangeTheData) {
  TinyRun tiny;
  Config config = tiny.config("drop");  // drops are drawn a sample, so they must not move either
  std::vector<double> reference;
  for (const int64_t micro : {12, 4, 1}) {
    config.train.micro_batch_size = micro;
    tiny.run(config, {.overwrite = true});
    std::vector<double> losses;
    for (const auto& record : read_metrics(tiny))
      if (record["type"] == "step") losses.push_back(record["loss"]);
    if (reference.empty()) reference = losses;
    ASSERT_EQ(losses.size(), reference.size());
    EXPECT_NEAR(losses[0], reference[0], 1e-6);  // the same data; later steps differ by rounding only
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], reference[i], 2e-3) << micro << " " << i;
  }
}

TEST_P(TrainOn, ANonFiniteStepStopsTheRunAndLeavesTheLastCheckpoint) {
  TinyRun tiny;
  Config config = tiny.config("hash", device());
  config.checkpoint.every = 2;
  config.train.steps = 4;
  tiny.run(config);
  const std::string saved = test::read_text(tiny.path("checkpoint-00000002/model.safetensors"));
  fs::remove_all(tiny.path("checkpoint-00000004"));
  config.schedule.schedule = "constant";
  config.schedule.lr = 1e38;
  config.checkpoint.keep = 1;
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"step 4", "not finite", "first bad tensor: "});
  config.train.steps = 20;  // step 5 may be under way when the loss of step 4 is known
  config.checkpoint.every = 100;
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"step 4: ", "not finite", "first bad tensor: "});
  config.train.steps = 4;
  config.checkpoint.every = 3;  // right behind the update that breaks the model
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"after step 3", "not finite", "Nothing was saved"});
  config.train.steps = 3;
  expect_error([&] { tiny.run(config, {.resume = true}); }, {"after step 3", "not finite", "Nothing was saved"});
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000003")));
  EXPECT_FALSE(fs::exists(tiny.path("checkpoint-00000004")));
  EXPECT_TRUE(test::read_text(tiny.path("checkpoint-00000002/model.safetensors")) == saved);
}

TEST(Train, ARunIsNeverReplacedUnasked) {
  TinyRun tiny;
  const Config config = tiny.config();
  tiny.run(config);
  const std::string metrics = test::read_text(tiny.path("metrics.jsonl"));
  test::write_text(tiny.path("notes.txt"), "mine");
  test::write_text(tiny.path("checkpoint-notes.txt"), "mine");
  expect_error([&] { tiny.run(config); }, {"runs/tiny", "--resume", "--overwrite"});
  EXPECT_EQ(test::read_text(tiny.path("metrics.jsonl")), metrics);
  tiny.run(config, {.overwrite = true});
  EXPECT_NE(test::read_text(tiny.path("metrics.jsonl")), metrics);
  EXPECT_TRUE(fs::exists(tiny.path("notes.txt")) && fs::exists(tiny.path("checkpoint-notes.txt")));
  Config impossible = config;
  impossible.model.positions = "rotary";
  impossible.model.n_embd = 1028;
  impossible.model.n_head = 1;
  const std::string saved = test::read_text(tiny.path("metrics.jsonl"));
  expect_error([&] { tiny.run(impossible, {.overwrite = true}); }, {"rotary", "512"});
  EXPECT_EQ(test::read_text(tiny.path("metrics.jsonl")), saved);
}

TEST(Train, ARotaryBaseThatIsSmallForTheSequencesIsNamed) {
  TinyRun tiny;
  Config config = tiny.config();
  config.model.positions = "rotary";
  config.model.rotary_theta = 250;
  tiny.run(config, {.dry_run = true});
  EXPECT_NE(tiny.out.find("model.rotary_theta 250: small for 64 tokens; with a larger one, such as 1e+06, attention"),
            std::string::npos)
      << tiny.out;
  config.model.rotary_theta = 1e4;
  tiny.run(config, {.dry_run = true});
  EXPECT_EQ(tiny.out.find("rotary_theta"), std::string::npos) << tiny.out;
}

TEST(Train, AGpuThatIsNotThereIsNamed) {
  if (gpu::available()) GTEST_SKIP() << "there is one";
  TinyRun tiny;
  expect_error([&] { tiny.run(tiny.config("hash", "gpu")); }, {"device: gpu", "cpu or auto"});
  const TrainResult result = tiny.run(tiny.config("hash", "auto"));
  EXPECT_EQ(result.step, 12);
  EXPECT_EQ(tiny.out.find("device: cpu") != std::string::npos, kCudaBuild);
}

// Nothing is allocated: a GPU of any size can plan the model that takes the most of it.
TEST(Train, MemoryPlanOfGpt2At8192TokensStaysBelow40GB) {
  test::skip_without_gpu();
  if (IsSkipped()) return;
  const Context ctx(Device::kGpu);
  GptConfig c;
  c.vocab_size = 50257;
  c.sequence_length = 8192;
  int64_t bytes = Optimizer::memory(ParameterTable(c));
  for (const Arena::Item& item : Gpt::memory_plan(ctx, c, 8, Gpt::Mode::kTraining)) bytes += item.bytes;
  for (const Arena::Item& item : ParameterStore::memory_plan(ctx, c, {.training = true})) bytes += item.bytes;
  EXPECT_LT(bytes, int64_t{40} * 1000 * 1000 * 1000);
  EXPECT_GT(bytes, int64_t{10} * 1000 * 1000 * 1000);
}

TEST(Train, DryRunChecksAndWritesNothing) {
  TinyRun tiny;
  Config config = tiny.config();
  tiny.run(config, {.dry_run = true});
  EXPECT_FALSE(fs::exists(tiny.folder / "runs"));
  EXPECT_NE(tiny.out.find("memory: "), std::string::npos);
  config.model.n_embd = 1 << 16;  // more than any machine has
  config.model.n_layer = 1000;
  config.train.micro_batch_size = 12;
  expect_error([&] { tiny.run(config, {.dry_run = true}); }, {"memory", "needed", "available"});
}

// A run may go on with another recomputation: it is the same run.
TEST(Train, RecomputesWhatItIsAskedTo) {
  TinyRun tiny;
  Config config = tiny.config();
  const TrainResult kept = tiny.run(config);
  for (const char* recompute : {"gelu", "norms", "block", "auto"}) {
    config.train.recompute = recompute;
    fs::remove_all(tiny.path("checkpoint-00000012"));
    const TrainResult result = tiny.run(config, {.resume = true});
    EXPECT_EQ(result.validation_loss, kept.validation_loss) << recompute;
    EXPECT_EQ(tiny.err.find("warning"), std::string::npos) << tiny.err;
    const bool told = tiny.out.find(concat("recomputes ", recompute)) != std::string::npos;
    EXPECT_EQ(told, std::string(recompute) != "auto") << tiny.out;  // what fits is kept
  }
  tiny.run(config, {.overwrite = true, .dry_run = true});
  for (const char* said : {"FLOPs per token; about ", " s per step expected; a micro-batch of up to "})
    EXPECT_NE(tiny.out.find(said), std::string::npos) << tiny.out;
}

// The step that is looked at has the patterns that it had.
TEST_P(TrainOn, ANonFiniteStepBeforeAStageIsNamed) {
  TinyRun tiny;
  Config config = tiny.config("hash", device());
  config.model.schedule = {{0.0, config.model.attention}, {0.1, {HeadPatterns(1)}}};  // from step 3 on
  config.train.steps = 20;
  config.schedule.schedule = "constant";
  config.schedule.lr = 1e38;
  expect_error([&] { tiny.run(config); }, {"step 2: ", "not finite", "first bad tensor: "});
  EXPECT_EQ(tiny.out.find("from step 3 on"), std::string::npos) << tiny.out;
}

// A run whose steps are CUDA graphs is the run without them, and one may go on as the other.
TEST_P(TrainOn, GraphsChangeNothing) {
  TinyRun tiny;
  Config config = tiny.config("hash", device());
  config.model.n_embd = 128;
  config.train.graph = false;
  const TrainResult without = tiny.run(config);
  const std::vector<std::string> records = tiny.records(0);
  config.train.graph = true;
  EXPECT_EQ(tiny.run(config, {.overwrite = true}).validation_loss, without.validation_loss);
  EXPECT_EQ(tiny.records(0), records);
  fs::remove_all(tiny.path("checkpoint-00000012"));
  fs::remove_all(tiny.path("checkpoint-00000010"));
  config.train.graph = false;
  EXPECT_EQ(tiny.run(config, {.resume = true}).validation_loss, without.validation_loss);
  EXPECT_EQ(tiny.err.find("warning"), std::string::npos) << tiny.err;
}

// In fp8 training goes on as without, a resumed run is the run that was not stopped, and evaluation is not in fp8.
TEST(Train, TrainsInFp8) {
  TinyRun tiny;
  Config config = tiny.config();
  config.train.precision = "fp8";
  const TrainResult whole = tiny.run(config);
  const std::vector<std::string> records = tiny.records(6);
  fs::remove_all(tiny.path("checkpoint-00000012"));
  fs::remove_all(tiny.path("checkpoint-00000010"));
  const TrainResult resumed = tiny.run(config, {.resume = true});
  EXPECT_EQ(resumed.validation_loss, whole.validation_loss);
  EXPECT_EQ(tiny.records(6), records);
  config.train.precision = "auto";
  const TrainResult own = tiny.run(config, {.overwrite = true});
  EXPECT_NE(own.validation_loss, whole.validation_loss);
  EXPECT_NEAR(*own.validation_loss, *whole.validation_loss, 0.03 * *own.validation_loss);
  config.train.precision = "fp8";
  config.model.n_embd = 24, config.model.n_head = 2;
  expect_error([&] { tiny.run(config, {.overwrite = true}); }, {"train.precision fp8", "model.n_embd", "24"});
}

// So many sequences that they fit only where a block's activations are computed again.
TEST(Train, RecomputesWhatDoesNotFit) {
  TinyRun tiny;
  Config config = tiny.config();
  config.model.n_layer = 40;
  config.model.sequence_length = 512;
  const Context ctx;
  GptConfig model = config.model;
  model.vocab_size = 257;
  const auto bytes = [&](Recompute recompute) {
    return static_cast<double>(total_bytes(Gpt::memory_plan(ctx, model, 1, Gpt::Mode::kTraining, 0, recompute)));
  };
  const auto available = static_cast<double>(available_memory());
  config.train.batch_size = config.train.micro_batch_size =
      static_cast<int64_t>(1.5 * available / bytes(Recompute::kNone));
  ASSERT_LT(bytes(Recompute::kBlock), 0.5 * bytes(Recompute::kNone));
  expect_error([&] { tiny.run(config, {.dry_run = true}); }, {"memory", "train.micro_batch_size", "train.recompute"});
  config.train.recompute = "auto";
  tiny.run(config, {.dry_run = true});
  EXPECT_NE(tiny.out.find("; recomputes "), std::string::npos) << tiny.out;
}

TEST(Train, SplitsOfTwoSetsAreNotTakenForOne) {
  TinyRun tiny, other;
  test::write_text(other.folder / "text.txt", std::string(20000, 'x'));
  other.prepare_text();
  const TokenSet train_set(tiny.folder / "data", Split::kTrain), val_set(other.folder / "data", Split::kVal);
  Console console;
  expect_error([&] { verify_data(tiny.config(), train_set, val_set, console); }, {"data: was replaced", "start again"});
}

TEST(Train, DryRunNamesARunsFolderThatCannotBeMade) {
  TinyRun tiny;
  Config config = tiny.config();
  const auto refused = [&](const std::string& runs, const char* why) {
    config.runs = runs;
    const size_t entries = tiny.folder.entries();
    expect_error([&] { tiny.run(config, {.dry_run = true}); }, {runs.c_str(), why});
    EXPECT_EQ(tiny.folder.entries(), entries);
  };
  test::write_text(tiny.folder / "file", "");
  refused(tiny.folder / "file", "is not a folder");
  refused(tiny.folder / "file/below/it", "is not a folder");
  fs::create_symlink("nowhere", tiny.folder / "link");
  refused(tiny.folder / "link", "is a link to what is not there");
  refused(tiny.folder / std::string(300, 'x'), "File name too long");
  if (::geteuid() != 0) {
    fs::create_directory(tiny.folder / "locked");
    fs::permissions(tiny.folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
    refused(tiny.folder / "locked/runs", "Permission denied");
  }
  config.runs = tiny.folder / "new/runs";
  tiny.run(config, {.dry_run = true});
  EXPECT_FALSE(fs::exists(tiny.folder / "new"));
}

TEST(Train, BadInputIsOneClearLine) {
  TinyRun tiny;
  Config config = tiny.config();
  config.data.directory = tiny.folder / "nowhere";
  expect_error([&] { tiny.run(config); }, {"data.directory", "nowhere", "./prepare_data --input"});
  config.data.prepare = "./prepare_data --input my.txt";
  expect_error([&] { tiny.run(config); }, {"data.directory", "nowhere", "./prepare_data --input my.txt"});
  config = tiny.config();
  config.model.vocab_size = 100;
  expect_error([&] { tiny.run(config); }, {"model.vocab_size", "100", "257", "bytes"});
  config = tiny.config();
  config.model.sequence_length = 100000;
  expect_error([&] { tiny.run(config); }, {"100000"});
  config = tiny.config();
  config.device = "cpu";
  config.model.sequence_length = 1000;  // fits training, not validation
  expect_error([&] { tiny.run(config); }, {"validation", "--val-fraction"});
  EXPECT_FALSE(fs::exists(tiny.folder / "runs"));
}

TEST(Train, CheckpointIsStandardSafetensors) {
  TinyRun tiny;
  const TrainResult result = tiny.run(tiny.config());
  const test::SafetensorsFile model(result.checkpoint + "/model.safetensors");
  EXPECT_EQ(model.tensors.at("wte.weight").shape, (std::vector<int64_t>{384, 16}));
  EXPECT_EQ(model.tensors.at("h.1.attn.c_attn.weight").shape, (std::vector<int64_t>{32, 16}));
  const test::SafetensorsFile optimizer(result.checkpoint + "/optimizer.safetensors");
  EXPECT_EQ(optimizer.tensors.size(), 2 * model.tensors.size());
  EXPECT_TRUE(optimizer.tensors.contains("v.ln_f.weight"));
}

TEST_P(TrainOn, GenerateContinuesAPromptTheSameWayForTheSameSeed) {
  TinyRun tiny;
  tiny.run(tiny.config("hash", device()));
  const auto text = [&](const GenerateOptions& options) {
    std::string made;
    generate(options, [&](std::string_view bytes) { made += bytes; });
    return made;
  };
  GenerateOptions options{
      .checkpoint = tiny.path(""), .prompt = "Line ", .tokens = 20, .sampling = {}, .seed = 3, .device = device()};
  const std::string first = text(options);
  EXPECT_EQ(first.substr(0, 5), "Line ");
  EXPECT_EQ(text(options), first);
  options.seed = 4;
  EXPECT_NE(text(options), first);
  options.tokens = 1000;  // ends where the context does
  EXPECT_LE(text(options).size(), 65u);
  options.prompt = "";
  EXPECT_FALSE(text(options).empty());
  options.prompt = std::string(65, 'a');
  expect_error([&] { text(options); }, {"prompt", "65", "64"});
  options.checkpoint = tiny.folder / "none";
  expect_error([&] { text(options); }, {"none", "there is no such run or checkpoint; "});
}

}  // namespace
}  // namespace scfa

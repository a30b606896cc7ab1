// train.init_from: a run begins with the parameters of another, of whatever attention, text and sequence length.
#include <gtest/gtest.h>

#include <filesystem>

#include "support/expect_error.h"
#include "support/gpu.h"
#include "support/rank_run.h"
#include "support/safetensors_reader.h"
#include "support/tiny_run.h"
#include "train/checkpoint.h"
#include "train/host_state.h"
#include "train/inspect.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::SafetensorsFile;
using test::TinyRun;

constexpr const char* kBias = ".attn.bucket_bias.heads_0_to_1.rounds_1.buckets_4";

// A run of 12 steps, and the config of another that changes none of its parameters.
class InitFrom : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    test::skip_without(GetParam());
    if (IsSkipped()) return;
    config = tiny.config("hash", name_of(GetParam()));
    config.model.positions = "rotary";
    config.model.attention[0][0].bias_rate = 0.1;
    tiny.run(config);
    source = tiny.path("");
    next = config;
    next.name = "next";
    next.train.init_from = source;
    next.train.steps = 2;
    next.schedule.lr = 0;
  }

  SafetensorsFile last_model(const std::string& name, const char* checkpoint) const {
    return SafetensorsFile(tiny.folder / ("runs/" + name + "/" + checkpoint + "/model.safetensors"));
  }

  TinyRun tiny;
  Config config, next;
  std::string source;
};

TEST_P(InitFrom, BeginsWhereTheOtherEnded) {
  next.train.steps = 1;
  config.model.attention[0][0].bias_rate = next.model.attention[0][0].bias_rate = 0;  // which changes in the step
  tiny.run(config, {.overwrite = true});
  const double loss = find_checkpoint(source).validation_loss.value();
  EXPECT_EQ(tiny.run(next).validation_loss, loss);
  EXPECT_NE(tiny.out.find("parameters: those of " + source + "checkpoint-00000012\n"), std::string::npos) << tiny.out;
  EXPECT_EQ(tiny.out.find("resumed"), std::string::npos);
  EXPECT_EQ(inspect(tiny.folder / "runs/next", {})["init_from"], source + "checkpoint-00000012");
  EXPECT_TRUE(inspect(source, {})["init_from"].is_null());
  // A checkpoint that is not the last one, too.
  next.train.init_from = source + "checkpoint-00000005";
  EXPECT_NE(tiny.run(next, {.overwrite = true}).validation_loss, loss);
}

TEST_P(InitFrom, TakesOverTheParametersAtAnotherLengthWithOtherAttention) {
  next.model.sequence_length = 128;
  next.model.attention[0][0].buckets = 8;
  next.train.batch_size = next.train.micro_batch_size = 2;
  next.eval.windows = 2;
  tiny.run(next);
  EXPECT_NE(tiny.out.find("; model.sequence_length was 64 and is now 128; attention was hash with 4 buckets, balanced "
                          "by a learned bias\n"),
            std::string::npos)
      << tiny.out;
  const SafetensorsFile before = last_model("tiny", "checkpoint-00000012"),
                        after = last_model("next", "checkpoint-00000002");
  size_t compared = 0;
  for (const auto& [name, tensor] : before.tensors) {
    if (name.find(kBucketBiasName) != std::string::npos) continue;
    EXPECT_EQ(after.at(name), tensor.values) << name;
    ++compared;
  }
  EXPECT_EQ(compared + 2, after.tensors.size());  // a tensor of biases per layer
}

TEST_P(InitFrom, BiasesOfTheSameBucketsAreTakenOverAndOthersAreZero) {
  Context ctx(GetParam());
  GptConfig model = find_checkpoint(source).config.model;
  HeadPatterns eight = model.attention[0];
  eight[0].buckets = 8;
  model.schedule = {{0, model.attention}, {0.5, {eight}}};
  ParameterStore store(ctx, model, {});
  ASSERT_EQ(store.bucket_bias_table().entries.size(), 4u);
  HostState state(store, false);
  for (int64_t i = 0; i < state.bucket_biases().numel(); ++i) state.bucket_biases().as<float>()[i] = 7;
  read_parameters(source + "checkpoint-00000012", store.table(), state, true);
  const SafetensorsFile before = last_model("tiny", "checkpoint-00000012");
  for (const BucketBiasEntry& entry : store.bucket_bias_table().entries) {
    const float* at = state.bucket_biases().as<float>() + entry.offset;
    const std::vector<float> got(at, at + entry.size);
    const bool known = entry.name.ends_with(kBias);
    EXPECT_EQ(got, known ? before.at(entry.name) : std::vector<float>(got.size(), 0.0f)) << entry.name;
    if (known) {
      EXPECT_NE(got, std::vector<float>(got.size(), 0.0f));
    }
  }
}

// Of another seed hashes have other directions, which biases are not for.
TEST_P(InitFrom, BiasesOfAnotherSeedAreNotTakenOver) {
  const auto first_loss = [&](const Config& run) {
    tiny.run(run, {.overwrite = true});
    const std::string text = test::read_text(tiny.folder / "runs/next/metrics.jsonl");
    const size_t at = text.find("\"loss\":", text.find("\"type\":\"step\""));
    return text.substr(at, text.find(',', at) - at);
  };
  next.train.steps = 1;
  const std::string with_biases = first_loss(next);
  EXPECT_EQ(tiny.out.find("seed was"), std::string::npos) << tiny.out;
  // Without its biases the model is another one.
  Config without = next;
  without.model.attention[0][0].bias_rate = 0;
  EXPECT_NE(first_loss(without), with_biases);
  next.seed = 5;
  first_loss(next);
  EXPECT_NE(tiny.out.find("; seed was 1337 and is now 5, so hash directions differ and bucket biases begin at 0"),
            std::string::npos)
      << tiny.out;
  Context ctx(GetParam());
  ParameterStore store(ctx, find_checkpoint(source).config.model, {});
  HostState state(store, false);
  for (int64_t i = 0; i < state.bucket_biases().numel(); ++i) state.bucket_biases().as<float>()[i] = 7;
  read_parameters(source + "checkpoint-00000012", store.table(), state, false);
  for (int64_t i = 0; i < state.bucket_biases().numel(); ++i) EXPECT_EQ(state.bucket_biases().as<float>()[i], 0.0f);
}

TEST_P(InitFrom, ResumingNeedsTheOtherRunNoMore) {
  next.schedule.lr = 1e-2;
  next.train.steps = 6;
  const TrainResult whole = tiny.run(next);
  fs::remove_all(tiny.folder / "runs/next/checkpoint-00000006");
  fs::remove_all(source);
  EXPECT_EQ(tiny.run(next, {.resume = true}).validation_loss, whole.validation_loss);
  EXPECT_NE(tiny.out.find("resumed from"), std::string::npos);
  EXPECT_EQ(inspect(tiny.folder / "runs/next", {})["init_from"], source + "checkpoint-00000012");
  next.train.init_from = tiny.path("elsewhere");
  EXPECT_EQ(tiny.run(next, {.resume = true}).validation_loss, whole.validation_loss);
  EXPECT_NE(tiny.err.find("elsewhere\": of no effect, as the run has a checkpoint"), std::string::npos) << tiny.err;
}

INSTANTIATE_TEST_SUITE_P(Train, InitFrom, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return std::string(name_of(row.param)); });

class InitFromErrors : public test::TinyRunTest {};

TEST_F(InitFromErrors, NameTheKeyAndLeaveNothing) {
  tiny.run(config);
  Config next = config;
  next.name = "next";
  const auto expect_refused = [&](std::initializer_list<const char*> parts) {
    for (const bool dry_run : {true, false}) expect_error([&] { tiny.run(next, {.dry_run = dry_run}); }, parts);
    EXPECT_FALSE(fs::exists(tiny.folder / "runs/next"));
  };
  next.train.init_from = tiny.folder / "runs/none";
  expect_refused({"train.init_from: ", "runs/none: there is no such run or checkpoint; ", "/runs holds tiny"});
  next.train.init_from = tiny.folder / "data";
  expect_refused({"train.init_from: ", "data: is neither a checkpoint nor a run with one"});
  next.train.init_from = tiny.path("");
  next.model.n_embd = 32;
  expect_refused({"train.init_from: ", "checkpoint-00000012: was trained with model.n_embd = 16, not 32"});
  next.model.n_embd = 16;
  next.model.sequence_length = 32;
  expect_refused({"model.sequence_length = 64, not 32; it may differ with model.positions rotary only"});
  next.model.positions = "rotary";
  expect_refused({"was trained with model.positions = \"learned\", not \"rotary\""});
  next.model.positions = "learned";
  next.model.sequence_length = 64;
  next.model.n_kv_head = 2;  // all of them, as before
  tiny.run(next, {.dry_run = true});
  const std::string model = tiny.path("checkpoint-00000012/model.safetensors");
  test::flip_bit(model, fs::file_size(model) / 2);
  Config same = config;
  same.train.init_from = tiny.path("checkpoint-00000010/");
  expect_error([&] { tiny.run(same, {.overwrite = true}); },
               {"train.init_from: ", "is of the run that --overwrite replaces"});
  tiny.run(next);  // of an earlier one
  EXPECT_NE(tiny.out.find("checkpoint-00000010"), std::string::npos) << tiny.out;
  EXPECT_NE(tiny.err.find("passed over"), std::string::npos) << tiny.err;
}

TEST(InitFromRanks, AllBeginWithTheSame) {
  test::RankRun run;
  test::RankRun::expect_success(run.ranks(1));
  const std::string before = test::read_text(run.checkpoint(12, "model.safetensors"));
  for (const char* zero : {"0", "1"}) {
    test::RankRun::expect_success(run.ranks(3, {"--name", "next", "--overwrite", "--train.init_from", run.path(""),
                                                "--train.steps", "1", "--schedule.lr", "0", "--train.zero", zero}));
    EXPECT_EQ(test::read_text(run.folder / "runs/next/checkpoint-00000001/model.safetensors"), before) << zero;
  }
}

}  // namespace
}  // namespace scfa

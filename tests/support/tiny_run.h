// A prepared set of a few thousand tokens and a config that trains on it in well under a second.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "data/prepare.h"
#include "support/temp_dir.h"
#include "train/config.h"
#include "train/trainer.h"

namespace scfa::test {

class TinyRun {
 public:
  TinyRun() {
    std::string text;
    for (int i = 0; i < 120; ++i)
      text += concat("Line ", i * i, " of a text with some structure, the ", i, "th of many.\n");
    write_text(folder / "text.txt", text);
    prepare_text();
  }

  void prepare_text() {
    PrepareOptions options;
    options.input.inputs = {folder / "text.txt"};
    options.set.directory = folder / "data";
    options.set.overwrite = true;
    options.set.shard_tokens = 501;  // windows cross shards
    options.set.val_fraction = 0.1;
    options.tokenizer = "bytes";
    options.threads = 1;
    prepare(options);
  }

  Config config(const std::string& pattern = "hash", const std::string& device = "cpu") const {
    Config c;
    c.device = device;
    c.name = "tiny";
    c.runs = folder / "runs";
    c.data.directory = folder / "data";
    c.model.n_layer = 2;
    c.model.n_head = 2;
    c.model.n_embd = 16;
    c.model.sequence_length = 64;
    c.model.bias = false;
    c.model.shared_qk = true;
    c.model.attention[0][0].pattern = pattern;
    c.model.attention[0][0].buckets = 4;
    c.train.steps = 12;
    c.train.batch_size = 12;
    c.train.micro_batch_size = 6;
    c.optimizer.clip = 1;
    c.schedule.lr = 1e-2;
    c.eval.every = 6;
    c.eval.windows = 7;  // not a multiple of the micro-batch
    c.checkpoint.every = 5;
    c.checkpoint.keep = 0;
    return c;
  }

  // Trains quietly. What went to the console is in out and err.
  TrainResult run(const Config& config, const TrainOptions& options = {}) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const auto finish = [&] {
      out = testing::internal::GetCapturedStdout();
      err = testing::internal::GetCapturedStderr();
    };
    try {
      Console console;
      const TrainResult result = train(config, options, console);
      finish();
      return result;
    } catch (...) {
      finish();
      throw;
    }
  }

  std::string path(const std::string& name) const { return folder / ("runs/tiny/" + name); }

  // The "step" records of metrics.jsonl from a step on, without their timings.
  std::vector<std::string> records(int64_t from) const {
    std::vector<std::string> found;
    std::ifstream file(path("metrics.jsonl"));
    for (std::string line; std::getline(file, line);) {
      if (line.find("\"type\":\"step\"") == std::string::npos) continue;
      const size_t step = line.find("\"step\":", 15) + 7;
      if (std::stoll(line.substr(step)) >= from) found.push_back(line.substr(0, line.find(",\"seconds\"")));
    }
    return found;
  }

  TempDir folder;
  std::string out, err;
};

// A tiny run of a test of its own; what differs from TinyRun::config() a test sets.
class TinyRunTest : public testing::Test {
 protected:
  TinyRun tiny;
  Config config = tiny.config();
};

// One run for all tests of a suite.
class TinyRunSuite : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    tiny_ = std::make_unique<TinyRun>();
    tiny_->run(tiny_->config());
  }
  static void TearDownTestSuite() { tiny_.reset(); }

  static std::string run() { return tiny_->path(""); }

  inline static std::unique_ptr<TinyRun> tiny_;
};

}  // namespace scfa::test

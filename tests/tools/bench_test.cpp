// ./bench as a user meets it: its command line, its table, and what ends it early.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <sstream>

#include "support/run_program.h"
#include "support/temp_dir.h"
#include "support/tiny_run.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::expect_one_line;
using test::Outcome;

using Words = std::vector<std::string>;

Words attention(std::initializer_list<std::string> more) {
  Words words{"bench", "attention", "--device", "cpu", "--length", "128", "--heads", "2", "--repeats", "1"};
  words.insert(words.end(), more);
  return words;
}

TEST(Bench, EveryWordIsUnderstoodOrNamed) {
  expect_one_line(execute({"bench"}), "bench: ", "attention");
  expect_one_line(execute({"bench", "everything"}), "bench: ", "everything");
  expect_one_line(execute({"bench", "attention", "dense"}), "bench: ", "dense");
  expect_one_line(execute({"bench", "attention", "-repeats", "3"}), "bench: ", "did you mean \"repeats\"");
  expect_one_line(execute({"bench", "attention", "--repeat=3"}), "bench: ", "did you mean \"repeats\"");
  expect_one_line(execute({"bench", "op", "spin", "--length=64"}), "bench: ", "spin");
  expect_one_line(execute({"bench", "op", "cast", "--csv", "x"}), "bench: ", "--csv");
  expect_one_line(execute({"bench", "attention", "--patterns=dense,spiral"}),
                  "bench: ", "--patterns: \"spiral\" is not");
  expect_one_line(execute({"bench", "attention", "--patterns=mixture", "--heads=2"}), "bench: ", "--patterns: none");
  expect_one_line(execute({"bench", "op", "cast", "--patterns=dense"}), "bench: ", "--patterns: only attention");
  expect_one_line(execute({"bench", "op", "cast", "--length=64,128"}), "bench: ", "--length");
  expect_one_line(execute({"bench", "op", "cast", "--pattern=spiral"}), "bench: ", "spiral");
  for (const char* option : {"--repeats", "--length", "--batch", "--heads", "--head-dim", "--width", "--outputs",
                             "--vocabulary", "--parameters"})
    for (const char* value : {"0", "-1", "1.5", "x", "99999999999999", ""}) {
      const bool of_attention = std::string(option) == "--head-dim";
      expect_one_line(execute({"bench", of_attention ? "attention" : "op", of_attention ? "--length=64" : "cast",
                               concat(option, '=', value)}),
                      "bench: ", concat(option, ": "));
    }
  expect_one_line(execute({"bench", "op", "cast", "--device=tpu"}), "bench: ", "--device");
}

// A step of a config file, with its schedule's last patterns; the same columns with any recomputation.
TEST(Bench, TimesStepsOfConfigs) {
  const test::TempDir folder;
  test::write_text(folder / "small.json", R"({"model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "sequence_length": 64,
      "shared_qk": true, "vocab_size": 50}, "train": {"batch_size": 4, "micro_batch_size": 2},
      "attention": {"schedule": [{"from": 0, "attention": {"pattern": "hash", "buckets": 4, "bias_rate": 0.1}},
                                 {"from": 0.5, "attention": {"window": 9}}]}})");
  const auto step = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"bench", "step", folder / "small.json", "--device=cpu", "--repeats=1"};
    words.insert(words.end(), more.begin(), more.end());
    return execute(words);
  };
  const Outcome outcome = step({"--csv", folder / "steps.csv", "--length=64,32", "--recompute=block"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string table = test::read_text(folder / "steps.csv");
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3) << table;
  EXPECT_NE(table.find("scfa,small,f32,64,2,256,"), std::string::npos) << table;
  EXPECT_NE(table.find("scfa,small,f32,32,2,128,"), std::string::npos) << table;
  EXPECT_NE(step({"--batch=1"}).out.find(" 64           1          64 "), std::string::npos);
  const std::string profile = step({"--batch=1", "--profile"}).out;
  for (const char* op : {"attention_forward", "linear_gelu_forward", "adamw", "ops"})
    EXPECT_NE(profile.find(concat("\n  ", op, " ").c_str()), std::string::npos) << op << "\n" << profile;
  expect_one_line(execute({"bench", "op", "cast", "--profile"}), "bench: ", "--profile");
  expect_one_line(execute({"bench", "step"}), "bench: ", "config");
  expect_one_line(execute({"bench", "step", "none.json"}), "bench: ", "none.json");
  test::write_text(
      folder / "large.json",
      R"({"model": {"n_layer": 64, "n_head": 32, "n_embd": 4096, "sequence_length": 64, "vocab_size": 50}})");
  expect_one_line(execute({"bench", "step", folder / "large.json", "--device=cpu", "--length=16000000"}),
                  "bench: ", "memory");
  test::write_text(folder / "wrong.json", R"({"model": {"n_head": 5}})");
  expect_one_line(execute({"bench", "step", folder / "wrong.json"}), "bench: ", "wrong.json: model.n_embd");
  expect_one_line(step({"--recompute=auto"}), "bench: ", "--recompute: must be none, gelu, norms or block");
  expect_one_line(step({"--precision=fp4"}), "bench: ", "--precision: must be auto or fp8");
  EXPECT_NE(step({"--precision=fp8", "--length=32"}).out.find("small                      fp8"), std::string::npos);
  test::write_text(folder / "odd.json",
                   R"({"model": {"n_head": 2, "n_embd": 24, "n_layer": 1, "sequence_length": 64}})");
  expect_one_line(execute({"bench", "step", folder / "odd.json", "--device=cpu", "--precision=fp8"}),
                  "bench: ", "odd: train.precision fp8 needs a model.n_embd");
  expect_one_line(step({"--buckets=8"}), "bench: ", "--buckets: step takes it from the config");
  expect_one_line(execute({"bench", "op", "cast", "--recompute=gelu"}), "bench: ", "--recompute");
}

size_t count_rows(const std::string& table, const std::string& begin) {
  size_t rows = 0;
  for (size_t at = 0; (at = table.find('\n' + begin, at)) != std::string::npos; ++at) ++rows;
  return rows;
}

TEST(Bench, RowsForTheseBucketsAndDropRates) {
  const test::TempDir folder;
  const Outcome outcome = execute(attention({"--buckets=2,8", "--drop-rate=0.2,0.25,0.8", "--csv", folder / "t.csv"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string table = test::read_text(folder / "t.csv");
  for (const char* pattern : {"hash", "hash_balanced", "reformer"})
    for (const char* buckets : {"2", "8"})
      EXPECT_EQ(count_rows(table, concat("scfa,", pattern, ",128,2,64,", buckets, ",0,")), 1u) << table;
  for (const char* rate : {"0.2", "0.25", "0.8"})
    EXPECT_EQ(count_rows(table, concat("scfa,drop,128,2,64,1,", rate, ',')), 1u) << table;
  // Two chunks are neighbours: they see all pairs.
  EXPECT_NE(outcome.out.find("chunks see 100.0 % of the pairs of one bucket"), std::string::npos) << outcome.out;
  expect_one_line(execute(attention({"--buckets=3"})), "bench: ", "attention.buckets");
  expect_one_line(execute(attention({"--buckets=8,x"})), "bench: ", "--buckets: must be");
  expect_one_line(execute(attention({"--drop-rate=1.5"})), "bench: ", "--drop-rate: must be a number from 0 to 1");
  expect_one_line(execute({"bench", "op", "cast", "--buckets=8,16"}), "bench: ", "--buckets: op takes one");
}

// Field i, from 0 on, of the first row that begins so.
std::string column(const std::string& table, const std::string& begin, int i) {
  std::istringstream row(table.substr(table.find('\n' + begin) + 1));
  std::string field;
  for (int at = 0; at <= i; ++at) std::getline(row, field, ',');
  return field;
}

class BenchCheckpoint : public test::TinyRunSuite {};

TEST_F(BenchCheckpoint, InputsAreThoseOfTheLayers) {
  const test::TempDir folder;
  const auto bench = [&](std::vector<std::string> more) {
    Words words{"bench", "attention", "--device=cpu", "--repeats=1", "--checkpoint", run()};
    words.insert(words.end(), more.begin(), more.end());
    return execute(words);
  };
  const Outcome outcome = bench({"--batch=2", "--patterns=dense,hash,reformer", "--csv", folder / "t.csv"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("means over the 2 layers of "), std::string::npos) << outcome.out;
  const std::string table = test::read_text(folder / "t.csv");
  EXPECT_EQ(count_rows(table, "scfa,dense,64,4,8,"), 1u) << table;
  EXPECT_EQ(count_rows(table, "scfa,hash,64,4,8,16,"), 1u) << table;
  EXPECT_NE(table.find(",trained,"), std::string::npos) << table;
  // The buckets of text are less even than those of random data, in every run the same.
  const auto shares = [&](std::vector<std::string> words) {
    for (const char* word : {"--patterns=hash,reformer", "--buckets=8", "--csv"}) words.emplace_back(word);
    words.push_back(folder / "shares.csv");
    const Outcome once = execute(words);
    EXPECT_EQ(once.code, 0) << once.err;
    const std::string text = test::read_text(folder / "shares.csv");
    return std::pair(column(text, "scfa,hash,", 13), column(text, "scfa,reformer,", 14));
  };
  Words of_model{"bench", "attention", "--device=cpu", "--repeats=1", "--checkpoint", run(), "--batch=2"};
  const auto [trained, seen] = shares(of_model);
  const auto [random, random_seen] = shares(
      {"bench", "attention", "--device=cpu", "--repeats=9", "--batch=2", "--length=64", "--heads=2", "--head-dim=8"});
  EXPECT_EQ(shares(of_model), std::pair(trained, seen));
  EXPECT_GT(std::stod(trained), 1.2 * std::stod(random));
  EXPECT_LT(std::stod(trained), 1.0);
  EXPECT_LT(std::stod(seen), std::stod(random_seen));
  EXPECT_GT(std::stod(seen), 0.1);
  EXPECT_EQ(bench({"--length=32,16", "--patterns=dense"}).code, 0);
  expect_one_line(bench({"--length=65"}), "bench: ", "--length: ");
  expect_one_line(bench({"--batch=1000"}), "bench: ", "--batch: ");
  expect_one_line(bench({"--heads=2"}), "bench: ", "--heads: the model of --checkpoint says it");
  expect_one_line(bench({"--data=none"}), "bench: ", "none");
  expect_one_line(execute(attention({"--checkpoint=none"})), "bench: ", "--heads");
  expect_one_line(execute({"bench", "attention", "--checkpoint=none"}), "bench: ", "none");
  expect_one_line(execute(attention({"--data=none"})), "bench: ", "--data: is the text for --checkpoint");
  expect_one_line(execute({"bench", "op", "cast", "--checkpoint=none"}), "bench: ", "--checkpoint: only attention");
}

// All rows that the model can have: no groups of heads, and Reformer only where keys are the queries.
TEST(Bench, RowsForTheKeysOfTheModel) {
  for (const bool shared : {true, false}) {
    test::TinyRun tiny;
    Config config = tiny.config(shared ? "hash" : "dense");
    config.model.n_head = 4;
    config.model.shared_qk = shared;
    config.train.steps = 1;
    tiny.run(config);
    const Outcome outcome =
        execute({"bench", "attention", "--device=cpu", "--repeats=1", "--batch=1", "--checkpoint", tiny.path("")});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out.find("gqa"), std::string::npos) << outcome.out;
    EXPECT_EQ(outcome.out.find("reformer") != std::string::npos, shared) << outcome.out;
    EXPECT_NE(outcome.out.find("blocks"), std::string::npos) << outcome.out;
  }
}

TEST(Bench, GroupedHeadsHaveARowForEveryPatternThatTheyCanHave) {
  const Outcome outcome = execute({"bench", "attention", "--length=64", "--heads=8", "--kv-heads=2", "--repeats=1"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("blocks"), std::string::npos);
  EXPECT_EQ(outcome.out.find("reformer"), std::string::npos);
}

TEST(Bench, WhatNeedsMoreMemoryThanThereIsIsAnError) {
  expect_one_line(execute({"bench", "op", "adamw", "--device=cpu", "--repeats=1", "--parameters=68719476736"}),
                  "bench: ", "adamw: needs ");
}

TEST(Bench, TheTableIsThereWholeOrNotAtAll) {
  const test::TempDir folder;
  const std::string csv = folder.put("table.csv", "from before");
  test::Streams limited;
  limited.out = "/dev/null";
  limited.file_limit = 300;
  expect_one_line(execute(attention({"--csv", csv}), limited), "bench: ", "table.csv");
  EXPECT_EQ(test::read_text(csv), "from before");
  test::Streams full;
  full.out = "/dev/full";
  expect_one_line(execute(attention({"--csv", csv}), full), "bench: ", "standard output: cannot be written");
  EXPECT_EQ(test::read_text(csv), "from before");
  expect_one_line(execute(attention({"--csv="})), "bench: ", "--csv=: names no file");
  EXPECT_EQ(folder.entries(), 1u);  // nothing half-written beside it
  expect_one_line(execute(attention({"--csv", folder / "none/x.csv"})), "bench: ", "x.csv");
  expect_one_line(execute(attention({"--csv", "/dev/full"})), "bench: ", "not a regular file");
  fs::create_symlink(csv, folder / "link.csv");
  EXPECT_EQ(execute(attention({"--csv", folder / "link.csv"})).code, 0);
  EXPECT_TRUE(fs::is_symlink(folder / "link.csv"));
  const std::string table = test::read_text(csv);
  // Two heads are too few for the mixture and the groups.
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 1 + 14) << table;
}

TEST(Bench, ASignalEndsWaitingForWhoDoesNotRead) {
  const test::FullPipe pipe;
  test::Streams streams;
  streams.out_fd = pipe.out();
  const Outcome outcome = execute(
      attention({"--repeats=1000000"}),  // the head of its table comes first
      [](pid_t pid) {
        ::usleep(500'000);
        test::stop_program(pid, SIGTERM);
      },
      streams);
  EXPECT_TRUE(outcome.code == 128 + SIGTERM || outcome.code == -SIGTERM) << outcome.code << outcome.err;
}

TEST(Bench, ASignalEndsIt) {
  for (const Words& words : std::vector<Words>{attention({"--repeats=1000000"}),
                                               {"bench", "op", "cast", "--device=cpu", "--repeats=1000000"}}) {
    const test::TempDir folder;
    test::Streams streams;
    streams.out = folder / "out.txt";
    const Outcome outcome = execute(
        words,
        [&](pid_t pid) {
          test::wait_until([&] { return fs::exists(streams.out) && fs::file_size(streams.out) > 0; });
          ::usleep(100'000);
          ::kill(pid, SIGINT);
        },
        streams);
    EXPECT_TRUE(outcome.code == 130 || outcome.code == -SIGINT) << outcome.code << outcome.err;
    EXPECT_NE(outcome.err.find("SIGINT: ending after this run"), std::string::npos) << outcome.err;
  }
}

}  // namespace
}  // namespace scfa

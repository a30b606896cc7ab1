// What inspect finds in the folders that the programs write, and that it finds what is broken.
#include "train/inspect.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <sstream>
#include <thread>

#include "data/folder_lock.h"
#include "support/expect_error.h"
#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/config_io.h"
#include "train/metrics_lines.h"
#include "train/run_log.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::expect_error;
using test::flip_bit;
using test::Outcome;

class Inspect : public testing::Test {
 protected:
  Inspect() { tiny_.run(tiny_.config()); }  // 12 steps, checkpoints after 5, 10 and 12

  std::string run() const { return tiny_.folder / "runs/tiny"; }
  std::string checkpoint(const char* step) const { return run() + "/checkpoint-000000" + step; }
  std::string set() const { return tiny_.folder / "data"; }

  test::TinyRun tiny_;
};

TEST_F(Inspect, ACheckpoint) {
  const Json found = inspect(checkpoint("10"), {});
  EXPECT_EQ(found["kind"], "checkpoint");
  EXPECT_EQ(found["step"], 10);
  EXPECT_EQ(found["tokenizer"], "bytes");
  EXPECT_EQ(found["device"], "cpu");
  EXPECT_EQ(found["config"]["model"]["n_embd"], 16);
  EXPECT_TRUE(found["problems"].empty());
  int64_t parameters = 0, bytes = 0;
  for (const Json& tensor : found["tensors"]) parameters += tensor["count"].get<int64_t>();
  for (const auto& [name, size] : found["files"].items()) bytes += size.get<int64_t>();
  EXPECT_EQ(found["tensors"][0]["shape"], Json::array({384, 16}));
  EXPECT_EQ(found["parameters"], parameters);
  EXPECT_EQ(found["bytes"], bytes);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    const std::string path = checkpoint("10") + "/" + file;
    flip_bit(path, test::read_text(path).size() - 1);
    const Json broken = inspect(checkpoint("10"), {});
    ASSERT_EQ(broken["problems"].size(), 1u) << broken;
    EXPECT_NE(broken["problems"][0].get<std::string>().find(file), std::string::npos) << broken;
    flip_bit(path, test::read_text(path).size() - 1);
  }
  fs::remove(checkpoint("10") + "/state.json");
  EXPECT_EQ(inspect(checkpoint("10"), {})["problems"].size(), 1u);
}

TEST_F(Inspect, ARun) {
  const Json found = inspect(run() + "/", {});
  EXPECT_EQ(found["kind"], "run");
  EXPECT_EQ(found["step"], 12);
  EXPECT_EQ(found["planned_steps"], 12);
  EXPECT_EQ(found["tokens"], 12 * 12 * 64);
  EXPECT_EQ(found["validation_step"], 12);
  EXPECT_GT(found["loss"], 1.0);
  EXPECT_GT(found["validation_loss"], 1.0);
  EXPECT_TRUE(found["started"].is_string());
  EXPECT_TRUE(found["writer"].is_null());
  EXPECT_TRUE(found["problems"].empty());
  ASSERT_EQ(found["checkpoints"].size(), 3u);
  for (const Json& row : found["checkpoints"]) EXPECT_EQ(row["state"], "whole");
  flip_bit(checkpoint("10") + "/model.safetensors", 500);
  fs::create_directory(checkpoint("12") + ".partial-abcdef");
  const Json broken = inspect(run(), {});
  EXPECT_EQ(broken["problems"].size(), 1u) << broken;
  std::string states;
  for (const Json& row : broken["checkpoints"]) states += row["state"].get<std::string>() + " ";
  EXPECT_EQ(states, "whole broken whole unfinished ");
  EXPECT_TRUE(inspect(run(), {.fast = true})["problems"].empty());
  fs::remove(run() + "/metrics.jsonl");
  const Json without = inspect(run(), {});
  EXPECT_TRUE(without["step"].is_null());
  EXPECT_EQ(without["planned_steps"], 12);  // of the newest checkpoint
}

TEST_F(Inspect, LinesOfMetricsThatDoNotCheckAreProblems) {
  const std::string metrics = run() + "/metrics.jsonl";
  flip_bit(metrics, test::read_text(metrics).find("\"cpu\":"));
  const Json broken = inspect(run(), {});
  EXPECT_EQ(broken["unreadable_lines"], 1);
  ASSERT_EQ(broken["problems"].size(), 1u) << broken;
  EXPECT_NE(broken["problems"][0].get<std::string>().find("metrics.jsonl: line 1 is not as it was written"),
            std::string::npos);
  EXPECT_EQ(inspect(tiny_.folder / "runs", {})["problems"].size(), 1u);
  test::expect_one_line(execute({"inspect", run()}), "inspect: ", "line 1");
  EXPECT_NE(execute({"inspect", run()}).out.find("1 of metrics.jsonl, cut short or not as written"), std::string::npos);
}

TEST_F(Inspect, WhoWritesToARun) {
  const FolderLock lock(run());
  const Json found = inspect(run(), {.fast = true});
  ASSERT_TRUE(found["writer"].is_string());
  EXPECT_NE(found["writer"].get<std::string>().find(concat("process ", ::getpid())), std::string::npos) << found;
  EXPECT_TRUE(found["problems"].empty());
}

TEST_F(Inspect, AFolderOfRuns) {
  Config other = tiny_.config("dense");
  other.name = "another";
  other.train.steps = 3;
  tiny_.run(other);
  fs::create_directories(tiny_.folder / "runs/not a run");
  const Json found = inspect(tiny_.folder / "runs", {});
  EXPECT_EQ(found["kind"], "runs");
  ASSERT_EQ(found["runs"].size(), 2u) << found;
  EXPECT_EQ(found["runs"][0]["name"], "another");
  EXPECT_EQ(found["runs"][0]["step"], 3);
  EXPECT_EQ(found["runs"][1]["planned_steps"], 12);
  EXPECT_GT(found["runs"][1]["validation_loss"], 1.0);
}

TEST_F(Inspect, APreparedSet) {
  std::string last;
  double share = 0;
  const Json found =
      inspect(set(), {.progress = [&](double done, const std::string& text) { share = done, last = text; }});
  EXPECT_EQ(found["kind"], "set");
  EXPECT_EQ(found["tokenizer"], "bytes");
  EXPECT_TRUE(found["problems"].empty());
  EXPECT_EQ(share, 1.0);
  EXPECT_NE(last.find("val"), std::string::npos);
  EXPECT_GT(found["train"]["shards"].size(), 5u);
  EXPECT_EQ(found["train"]["stored_bytes"], found["train"]["tokens"].get<int64_t>() * 2);
  EXPECT_GT(found["val"]["tokens"], 0);
  const std::string shard = set() + "/" + found["train"]["shards"][2]["file"].get<std::string>();
  flip_bit(shard, 100);
  const Json broken = inspect(set(), {});
  ASSERT_EQ(broken["problems"].size(), 1u) << broken;
  EXPECT_NE(broken["problems"][0].get<std::string>().find(fs::path(shard).filename()), std::string::npos) << broken;
  EXPECT_TRUE(inspect(set(), {.fast = true})["problems"].empty());
  fs::resize_file(shard, 70);
  EXPECT_EQ(inspect(set(), {.fast = true})["problems"].size(), 1u);  // sizes are looked at all the same
  test::write_text(set() + "/manifest.json", "{\"tokenizer\":");
  EXPECT_EQ(inspect(set(), {})["problems"].size(), 1u);
}

TEST_F(Inspect, FilesOfOursAreRegularFiles) {
  const auto replace_by_pipe = [](const std::string& path) {
    fs::remove(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  };
  const auto expect_named = [](const Outcome& outcome, const std::string& path) {
    test::expect_one_line(outcome, "inspect: ", path + ": is not a regular file");
  };
  const auto look = [](const std::string& path) {  // a program that waits is killed
    return execute({"inspect", path}, [](pid_t pid) { test::expect_end(pid); });
  };
  for (const char* name : {"/state.json", "/checkpoint.xxh3"}) {
    const std::string folder = checkpoint(name[1] == 's' ? "05" : "10");
    replace_by_pipe(folder + name);
    expect_named(look(folder), folder + name);
  }
  replace_by_pipe(set() + "/manifest.json");
  expect_named(look(set()), set() + "/manifest.json");
  // What a user names may be one: ./train --config <(...)
  const std::string config = tiny_.folder / "config";
  replace_by_pipe(config);
  std::thread writer([&] { test::write_text(config, to_json(tiny_.config()).dump()); });
  EXPECT_EQ(read_config(config).model.n_embd, 16);
  writer.join();
}

TEST_F(Inspect, WhatIsNothingOfOurs) {
  const std::string none = tiny_.folder / "none", file = tiny_.folder / "text.txt";
  expect_error([&] { inspect(none, {}); }, {none.c_str(), "no such file or folder"});
  expect_error([&] { inspect(file, {}); }, {file.c_str(), "is a file"});
  fs::create_directory(none);
  expect_error([&] { inspect(none, {}); }, {none.c_str(), "neither a checkpoint, a run, a folder of runs nor"});
}

TEST_F(Inspect, TheProgramPrintsWhatFitsATerminalAndOneJsonObject) {
  const auto show = [&](const std::vector<std::string>& words) {
    std::vector<std::string> all{"inspect"};
    all.insert(all.end(), words.begin(), words.end());
    return execute(all);
  };
  const fs::path before = fs::current_path();
  fs::current_path(tiny_.folder / ".");  // short paths
  const std::string step = "runs/tiny/checkpoint-00000010";
  for (const auto& [path, parts] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {step, {"checkpoint " + step, "10 of 12", "hash with 4 buckets", "2 layers", "hold", "model.safetensors"}},
           {"runs/tiny", {"run runs/tiny", "12/12", "9,216", "checkpoint-00000005", "whole", "writer            none"}},
           {"runs", {"runs in runs", "tiny", "12/12", "val loss"}},
           {"data", {"prepared set data", "bytes", "train", "val", "shards", "hold"}}}) {
    const Outcome text = show({path}), json = show({path, "--json"}), config = show({path, "--config"});
    EXPECT_EQ(text.code, 0) << text.err;
    EXPECT_EQ(text.err, "");
    for (const std::string& part : parts) EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
    EXPECT_EQ(text.out.find("null"), std::string::npos) << text.out;
    std::istringstream lines(text.out);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
    EXPECT_EQ(parse_json(json.out, "output")["path"], path);
    EXPECT_EQ(config.out.find("\"n_embd\": 16") != std::string::npos, path == step || path == "runs/tiny");
  }
  const Outcome tensors = show({step, "--tensors"});
  EXPECT_NE(tensors.out.find("wte.weight"), std::string::npos);
  EXPECT_NE(tensors.out.find("384 x 16"), std::string::npos) << tensors.out;
  flip_bit(step + "/model.safetensors", 500);
  for (const std::string& path : {step, std::string("runs/tiny")}) {
    const Outcome broken = show({path});
    test::expect_one_line(broken, "inspect: ", "model.safetensors");
    EXPECT_NE(broken.out.find(path == step ? "do not hold" : "broken"), std::string::npos) << broken.out;
    EXPECT_EQ(parse_json(show({path, "--json"}).out, "output")["problems"].size(), 1u);
  }
  fs::current_path(before);
  test::expect_one_line(show({}), "inspect: ", "name one folder");
  test::expect_one_line(show({"a", "b"}), "inspect: ", "name one folder");
  test::expect_one_line(show({"a", "--jsn"}), "inspect: ", "did you mean \"json\"");
}

// Lines of a metrics file.
std::string record(const std::string& type, int64_t step, double loss) {
  return concat("{\"type\":\"", type, "\",\"step\":", step, ",\"loss\":", loss, "}\n");
}
const std::string kHeader = "{\"type\":\"header\",\"time\":\"then\",\"config\":{\"eval\":{\"every\":3}}}\n";

RunLog log_of(const std::string& text) {
  const test::TempDir folder;
  return read_run_log(folder.put("metrics.jsonl", text));
}

TEST(RunLog, TheLastRecordsThatHold) {
  const RunLog log = log_of(kHeader + record("step", 1, 5) + record("eval", 1, 4.5) + record("step", 2, 4));
  EXPECT_EQ(log.header["time"], "then");
  EXPECT_EQ(log.step["loss"], 4.0);
  EXPECT_EQ(log.eval["loss"], 4.5);
  EXPECT_TRUE(log.resume.is_null());
  EXPECT_EQ(log.unreadable, 0);
  const RunLog begun = log_of(kHeader);
  EXPECT_TRUE(begun.step.is_null() && begun.eval.is_null() && begun.header.is_object());
  EXPECT_TRUE(log_of("").header.is_null());
}

TEST(RunLog, LinesThatDoNotCheckAreCountedTheHeaderIncluded) {
  const auto sealed = [](const std::string& line) { return with_checksum(line.substr(0, line.size() - 1)) + "\n"; };
  const std::string header = sealed("{\"type\":\"header\",\"format\":2,\"time\":\"then\"}\n");
  const std::string steps = sealed(record("step", 1, 5)) + sealed(record("eval", 1, 4)) + sealed(record("step", 2, 4));
  const auto broken = [](const std::string& text) { return log_of(text).broken; };
  EXPECT_EQ(broken(header + steps), std::vector<int64_t>{});
  EXPECT_EQ(log_of(header + steps).header["time"], "then");
  std::string bad = header + steps;
  bad[bad.find("then")] ^= 1;
  EXPECT_EQ(broken(bad), std::vector<int64_t>{1});
  EXPECT_TRUE(log_of(bad).header.is_null());
  EXPECT_EQ(log_of(bad).step["loss"], 4.0);
  bad = header;
  bad[bad.find("xxh3")] ^= 1;  // a header without the checksum that its format has
  EXPECT_EQ(broken(bad), std::vector<int64_t>{1});
  EXPECT_EQ(broken(header + record("step", 1, 5) + steps), std::vector<int64_t>{2});
  bad = header + steps;
  bad[bad.size() - 40] ^= 1;  // the last step
  EXPECT_EQ(broken(bad), std::vector<int64_t>{4});
  EXPECT_EQ(log_of(bad).step["step"], 1);
  // A file of an earlier version, before and after it was taken up again.
  EXPECT_EQ(log_of(kHeader + record("step", 1, 5)).unreadable, 0);
  const std::string resumed = sealed("{\"type\":\"resume\",\"format\":2,\"step\":1}\n");
  EXPECT_EQ(log_of(kHeader + record("step", 1, 5) + resumed + sealed(record("step", 2, 5))).unreadable, 0);
  const RunLog cut_short = log_of(header + steps + sealed(record("step", 3, 3)).substr(0, 30));
  EXPECT_EQ(cut_short.unreadable, 1);
  EXPECT_TRUE(cut_short.broken.empty());  // a run that is still writing
}

TEST(RunLog, WhatFollowsAResumeReplacesLaterSteps) {
  const std::string first = kHeader + record("step", 1, 5) + record("eval", 1, 9) + record("step", 2, 4) +
                            record("eval", 2, 8) + record("step", 3, 3) + record("eval", 3, 7);
  const RunLog fresh = log_of(first + record("resume", 2, 0));
  EXPECT_EQ(fresh.step["step"], 2);
  EXPECT_EQ(fresh.eval["step"], 2);
  EXPECT_EQ(fresh.resume["step"], 2);
  const RunLog further = log_of(first + record("resume", 2, 0) + record("step", 3, 2.5));
  EXPECT_EQ(further.step["loss"], 2.5);
  EXPECT_EQ(further.eval["step"], 2);
  const RunLog evaluated = log_of(first + record("resume", 2, 0) + record("step", 3, 2.5) + record("eval", 3, 6));
  EXPECT_EQ(evaluated.resume["step"], 2);  // also where it is not needed to know which steps count
  const RunLog twice = log_of(first + record("resume", 2, 0) + record("step", 3, 2) + record("resume", 1, 0));
  EXPECT_EQ(twice.step["step"], 1);
  EXPECT_EQ(twice.eval["step"], 1);
  EXPECT_TRUE(log_of(first + record("resume", 0, 0)).step.is_null());
}

TEST(RunLog, LinesThatAreNoRecordsArePassedOver) {
  const std::string good = kHeader + record("step", 1, 5) + record("eval", 1, 4);
  for (const std::string& bad :
       {std::string("{\"type\":\"step\",\"step\":2,\"lo"), std::string("{\"type\":\"st"), std::string(1000, '\0'),
        std::string("\"step\" \xff\xfe\n"), std::string("[\"step\"]\n"), std::string("{\"step\":2}\n"),
        std::string("{\"type\":\"step\",\"step\":\"2\"}\n"), std::string("{\"type\":\"step\",\"step\":2.5}\n"),
        std::string("{\"type\":3,\"step\":2}\n"), std::string(10'000'000, '['), std::string(9'000'000, 'x') + "\n",
        std::string("\n\n\n")}) {
    for (const std::string& text : {good + bad, good + "\n" + bad}) {
      const RunLog log = log_of(text);
      EXPECT_EQ(log.step.dump(), "{\"type\":\"step\",\"step\":1,\"loss\":5}") << abbreviate(bad);
      EXPECT_EQ(log.eval["loss"], 4);
      EXPECT_TRUE(log.header.is_object());
    }
    const RunLog log = log_of(bad + "\n" + good);
    EXPECT_EQ(log.step["loss"], 5);
  }
  EXPECT_GT(log_of(good + "{\"type\":\"step\",\"step\":2,\"lo").unreadable, 0);
}

TEST(RunLog, OfManyRecordsReadsOnlyTheEnd) {
  std::string text = kHeader;
  text.reserve(40'000'000);
  for (int64_t step = 1; step < 500'000; ++step) text += record("step", step, 1);
  const test::TempDir folder;
  const std::string path = folder.put("metrics.jsonl", text + record("eval", 400'000, 2) + record("step", 500'000, 3));
  EXPECT_EQ(read_run_log(path, Lines::kLast).step["step"], 500'000);
}

}  // namespace
}  // namespace scfa

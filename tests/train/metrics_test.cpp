#include "train/metrics.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/tiny_run.h"
#include "train/metrics_lines.h"
#include "train/run_log.h"

namespace scfa {
namespace {

using test::read_text;
using test::TinyRun;

constexpr const char* kHeader = "{\"type\":\"header\",\"time\":\"now\"}\n";

std::string step_line(int64_t step) {
  return concat("{\"type\":\"step\",\"step\":", step, ",\"loss\":1.5}\n");
}

// What is left of a text that is cut to a step.
std::string cut(const std::string& text, int64_t step, std::vector<int64_t>* broken = nullptr) {
  const test::TempDir folder;
  const std::string path = folder.put("metrics.jsonl", text);
  const int64_t gone = cut_metrics(path, step, broken);
  const std::string left = read_text(path);
  EXPECT_EQ(gone, static_cast<int64_t>(text.size() - left.size()));
  EXPECT_EQ(left, text.substr(0, left.size()));
  return left;
}

TEST(Metrics, CutGoesBackToTheLastWholeRecordOfTheStep) {
  const std::string five = kHeader + step_line(1) + step_line(5);
  EXPECT_EQ(cut(five, 5), five);
  EXPECT_EQ(cut(five + step_line(6), 5), five);
  EXPECT_EQ(cut(five + step_line(5).substr(0, 20), 5), five);              // cut short
  EXPECT_EQ(cut(five + step_line(6) + "{\"type\":\"st", 5), five);         // by a full disk
  EXPECT_EQ(cut(five + std::string(40, '\0') + "\n", 5), five);            // by a crash of the machine
  EXPECT_EQ(cut(five + "{\"type\":\"step\",\"step\":\"5\"}\n", 5), five);  // not a record of ours
  const std::string broken = kHeader + std::string("{\"type\":\"step\",\"st\n") + step_line(5);
  EXPECT_EQ(cut(broken + step_line(6), 5), broken);  // what is broken before stays
  EXPECT_EQ(cut(kHeader + step_line(6), 5), kHeader);
  EXPECT_EQ(cut("", 5), "");
  EXPECT_EQ(cut("\n\n", 5), "");
  EXPECT_EQ(cut("no line at all", 5), "");
}

TEST(Metrics, CutFindsLinesOfAnyLength) {
  std::string text = kHeader;
  for (int64_t step = 1; step <= 2000; ++step) text += step_line(step);
  const std::string kept = text.substr(0, text.find(step_line(1001)));
  EXPECT_EQ(cut(text, 1000), kept);
  const std::string with_long = kept + "{\"type\":\"eval\",\"step\":1000,\"x\":\"" + std::string(300000, 'x') + "\"}\n";
  EXPECT_EQ(cut(with_long + step_line(1001) + std::string(100000, 'y'), 1000), with_long);
  EXPECT_EQ(cut_metrics("no such file", 5), 0);
  const std::string deep = kHeader + std::string(200000, '[') + "\n";
  EXPECT_EQ(cut(deep, 5), kHeader);
}

TEST(Metrics, CutGoesFrontToBackAndNamesLinesThatDoNotCheck) {
  const auto sealed = [](const std::string& line) { return with_checksum(line.substr(0, line.size() - 1)) + "\n"; };
  std::string later = sealed(step_line(8));
  later[later.find('8')] = '4';  // of a step that would be kept, if the line were believed
  const std::string five = sealed(kHeader) + sealed(step_line(1)) + sealed(step_line(5));
  std::vector<int64_t> broken;
  EXPECT_EQ(cut(five + sealed(step_line(6)) + later + sealed(step_line(9)), 5, &broken), five);
  EXPECT_TRUE(broken.empty());
  std::string flipped = five;
  flipped[flipped.find("now")] ^= 1;
  flipped[flipped.find("1.5")] ^= 1;
  EXPECT_EQ(cut(flipped + sealed(step_line(6)), 5, &broken), flipped);
  EXPECT_EQ(broken, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(describe_broken_lines("x", broken), "x: lines 1 and 2 are not as they were written");
  EXPECT_EQ(describe_broken_lines("x", {7}), "x: line 7 is not as it was written");
  EXPECT_EQ(describe_broken_lines("x", std::vector<int64_t>(12, 3)),
            "x: lines 3, 3, 3, 3, 3, 3, 3, 3, 3, 3 and 2 more are not as they were written");
  broken.clear();
  EXPECT_EQ(cut(five + sealed(step_line(5)).substr(0, 30), 5, &broken), five);  // cut short: said too, for it goes
  EXPECT_EQ(broken, std::vector<int64_t>{4});
  // Without checksums too, a step that was 8 keeps none that comes again.
  EXPECT_EQ(cut(kHeader + step_line(5) + step_line(6) + step_line(4) + step_line(9), 5), kHeader + step_line(5));
  // Of an earlier version, which did not cut: a "resume" record replaces later steps before it.
  const std::string again = "{\"type\":\"resume\",\"step\":5}\n" + step_line(6);
  const std::string uncut = kHeader + step_line(5) + step_line(6) + step_line(7) + again;
  EXPECT_EQ(cut(uncut + step_line(7), 6), uncut);
  EXPECT_EQ(cut(uncut, 4), kHeader);
}

TEST(Metrics, EachLineHasAChecksumThatNoFlippedBitEscapes) {
  TinyRun tiny;
  Config config = tiny.config("dense");
  config.train.steps = 3;
  tiny.run(config);
  const std::string path = tiny.path("metrics.jsonl"), whole = read_text(path);
  ASSERT_EQ(read_run_log(path).unreadable, 0);
  std::string flipped = whole;
  for (size_t at = 0; at < whole.size(); at += 3) {
    flipped[at] = static_cast<char>(whole[at] ^ 1 << at % 8);
    test::write_text(path, flipped);
    EXPECT_GE(read_run_log(path).unreadable, 1) << "bit " << at % 8 << " of byte " << at;
    flipped[at] = whole[at];
  }
  std::ifstream lines(tiny.folder.put("whole.jsonl", whole));
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line);
    EXPECT_EQ(record.back(), record["xxh3"]) << line;
    EXPECT_EQ(with_checksum(line.substr(0, line.rfind(",\"xxh3\"")) + "}"), line);
  }
}

TEST(Metrics, AResumedRunSaysWhichLinesDoNotCheck) {
  TinyRun tiny;
  Config config = tiny.config("dense");
  config.train.steps = 5;
  tiny.run(config);
  std::string text = read_text(tiny.path("metrics.jsonl"));
  text[text.find("\"version\"") + 2] ^= 1;
  test::write_text(tiny.path("metrics.jsonl"), text);
  config.train.steps = 6;
  tiny.run(config, {.resume = true});
  EXPECT_NE(tiny.err.find("metrics.jsonl: line 1 is not as it was written"), std::string::npos) << tiny.err;
  EXPECT_EQ(tiny.records(1).size(), 6u);
}

TEST(Metrics, AResumedRunHasEachStepOnceAndWholeLines) {
  TinyRun tiny;
  Config config = tiny.config("dense");
  config.train.batch_size = 6;
  config.train.steps = 5;
  tiny.run(config);
  const std::string whole = read_text(tiny.path("metrics.jsonl"));
  test::write_text(tiny.path("metrics.jsonl"), whole + step_line(6) + step_line(7) + "{\"type\":\"step\",\"ste");
  config.train.steps = 7;
  tiny.run(config, {.resume = true});
  EXPECT_EQ(tiny.records(1).size(), 7u);
  EXPECT_EQ(read_text(tiny.path("metrics.jsonl")).substr(0, whole.size()), whole);
}

}  // namespace
}  // namespace scfa

// runs/NAME/metrics.jsonl: one JSON object per line. First a header (config, commit, machine); then a "step" for
// each step, an "eval" for each evaluation, a "profile" (times by op) every log.every steps, and a "resume" for each
// resumption. Each line has a checksum (train/metrics_lines.h).
#pragma once
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "model/gpt.h"
#include "train/config.h"
#include "train/evaluate.h"

namespace scfa {

struct StepRecord {
  int64_t step;  // updates done, this one included
  double loss, lr, grad_norm;
  int64_t tokens;    // of the whole run so far
  double seconds;    // of this step
  double data_wait;  // of these, for data
  double tokens_per_second = 0, flops_per_second = 0;
  double utilisation = 0;   // of the data sheet's FLOP/s; 0 where that is not known
  int64_t peak_memory = 0;  // bytes, of the device
};

// Reads the file from its start and truncates it after the last intact line that is the header or a record of a step up
// to `step`. This drops a line that a full disk or a kill cut short, and steps that will be repeated. Numbers of
// damaged lines before the first record of a later step are added to `broken`, if given. Returns the bytes removed.
int64_t cut_metrics(const std::string& path, int64_t step, std::vector<int64_t>* broken = nullptr);

class Metrics {
 public:
  // Creates the file with its header; or cuts it back to what cut_metrics keeps and appends a resume record. init_from:
  // the checkpoint whose parameters the run begins with, if any; for the header.
  Metrics(const std::string& path, const Config& config, Gpt& model, int64_t resume_step, int ranks,
          const std::string& init_from = "");

  void step(const StepRecord& record);
  // Times of ops within a step, in seconds; those of one micro-batch stand for all. attention: of these, its ops.
  void profile(int64_t step, double seconds, double attention, const std::map<std::string, double>& times);
  // With the measured share of dense attention's pairs; unless every layer is dense, with how the rows of each layer
  // and head spread over its segments.
  void eval(int64_t step, const Evaluation& evaluation, double seconds);

  const std::string& path() const { return path_; }
  // Which lines of a run that goes on are not as they were written; empty: all are.
  const std::string& warning() const { return warning_; }

 private:
  void write(const std::string& line);
  std::string path_, warning_;
  std::ofstream file_;
};

}  // namespace scfa

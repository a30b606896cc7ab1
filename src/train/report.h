// What a run tells of itself as it goes, on the console and in its metrics. Rank 0 tells it for all.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/console.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/step_policy.h"
#include "train/step_profile.h"

namespace scfa {

class Reporter {
 public:
  // metrics: null on ranks that are not the first, where nothing is told. started_at: steps done before this process.
  // console, ctx and config must outlive it.
  Reporter(Console& console, std::unique_ptr<Metrics> metrics, const Context& ctx, const Config& config,
           int64_t started_at, int ranks);

  // record: rates and memory are filled in here. times: of the same step, if it was profiled.
  void step(StepRecord record, const std::optional<StepTimes>& times);
  // seconds: that the evaluation took.
  void evaluated(int64_t step, const Evaluation& evaluation, double seconds);
  // Of the run, after `step`. checkpoint: the last one, empty if there is none. signal: that ended it early, or 0.
  void finished(int64_t step, const std::string& checkpoint, int signal);

 private:
  struct Interval {  // since the last line on the console
    int64_t steps = 0;
    double seconds = 0, data_wait = 0, flops = 0;
  };
  void print_step(const StepRecord& record, const std::string& left);
  double seconds_left(int64_t done) const;

  Console& console_;
  std::unique_ptr<Metrics> metrics_;
  const Context& ctx_;
  const Config& config_;
  StepPolicy policy_;
  int64_t started_at_;
  std::vector<double> flops_per_step_;  // of each stage
  double peak_flops_;                   // of all ranks
  double attention_share_ = 0;          // of the step last profiled
  Interval interval_;
  double trained_seconds_ = 0, trained_flops_ = 0;  // of all steps
  double eval_seconds_ = 0;                         // of the last evaluation
};

}  // namespace scfa

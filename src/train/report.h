// What a run tells of itself as it goes, on the console and in its metrics.
#pragma once
#include <cstdint>
#include <string>

#include "data/token_file.h"
#include "train/config.h"
#include "train/console.h"
#include "train/evaluate.h"
#include "train/metrics.h"

namespace scfa {

// Program, machine, model, data and steps, on the console.
void describe_run(Console& console, Context& ctx, const Config& config, const TokenSet& train_set,
                  const Evaluator& evaluator, int ranks);

// Who takes part; of a program that could not run on several ranks of this device, what is missing for it.
void describe_ranks(Console& console, const World& world, Device device);

class Reporter {
 public:
  Reporter(Console& console, Metrics& metrics, const Context& ctx, const Config& config, int64_t first_step, int ranks);

  // record: rates and memory are filled in here.
  void step(StepRecord record);
  // times: of the ops of one micro-batch, and of those that run once a step, in seconds.
  void profile(int64_t step, double seconds, const ProfileTimes& times);
  void evaluated(int64_t step, const Evaluation& evaluation, double seconds);

 private:
  void print_step(const StepRecord& record, const std::string& left);
  double seconds_left(int64_t done) const;

  Console& console_;
  Metrics& metrics_;
  const Context& ctx_;
  const Config& config_;
  int64_t first_step_, tokens_a_step_, accumulation_;
  double flops_a_token_, peak_flops_;  // peak: of all ranks
  double attention_share_ = 0;         // of the step last profiled
  int64_t interval_steps_ = 0;
  double trained_seconds_ = 0, interval_seconds_ = 0, interval_data_wait_ = 0, eval_seconds_ = 0;
};

}  // namespace scfa

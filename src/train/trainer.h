// Training from a config: data in, metrics and checkpoints out.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "data/loader.h"
#include "model/gpt.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/console.h"
#include "train/metrics.h"
#include "train/optimizer.h"

namespace scfa {

struct TrainOptions {
  bool resume = false;        // go on from the newest whole checkpoint of the run; start anew if it has none yet
  std::string resume_from{};  // with resume: this checkpoint of the run, which must be its newest whole one
  bool overwrite = false;     // remove what an earlier run of this name left
  bool dry_run = false;       // check everything, print the memory plan, allocate and write nothing
};

struct TrainResult {
  int64_t step = 0;
  std::optional<double> validation_loss;  // after that step, if it was evaluated
  std::string checkpoint;
  int signal = 0;  // that ended the run early, after a checkpoint was saved; 0 if none
};

// Holds the run's folder (data/folder_lock.h) until it returns. Throws Error on anything that stops a run; the last
// checkpoint is then as it was. Throws Interrupted if a signal asked to stop before the first step. Ends the program if
// a step hangs (train/watchdog.h).
TrainResult train(const Config& config, const TrainOptions& options, Console& console);

}  // namespace scfa

// Training from a config: data in, metrics and checkpoints out.
#pragma once
#include <memory>
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
  bool resume = false;     // go on from the newest whole checkpoint of the run; start anew if there is none
  bool overwrite = false;  // remove what an earlier run of this name left
  bool dry_run = false;    // check everything, print the memory plan, allocate and write nothing
};

struct TrainResult {
  int64_t step = 0;
  LossSums validation;
  std::string checkpoint;
  int signal = 0;  // that ended the run early, after a checkpoint was saved; 0 if none
};

// Throws Error on anything that stops a run; the last checkpoint is then as it was.
TrainResult train(const Config& config, const TrainOptions& options, Console& console);

}  // namespace scfa

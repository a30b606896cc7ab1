// Training from a config: data in, metrics and checkpoints out.
#pragma once
#include <optional>
#include <string>

#include "comm/world.h"
#include "train/config.h"
#include "train/console.h"

namespace scfa {

struct TrainOptions {
  bool resume = false;        // go on from the newest whole checkpoint of the run; start anew if it has none yet
  std::string resume_from{};  // with resume: this checkpoint of the run, which must be its newest whole one
  bool overwrite = false;     // remove what an earlier run of this name left
  bool dry_run = false;       // check everything, print the memory plan, allocate and write nothing
  int plan_ranks = 0;         // with dry_run: ranks to plan for; 0: as many as there are
  bool share_gpu = false;     // several ranks may use one GPU, for tests
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

// The same as one rank of a world, called on all of them; the console of ranks that are not the first is silent. Rank 0
// alone reads and writes the run's folder. Throws CollectiveError for what ends all ranks in the same place.
TrainResult train(const Config& config, const TrainOptions& options, Console& console, World& world);

}  // namespace scfa

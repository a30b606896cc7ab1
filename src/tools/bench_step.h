// Times of whole training steps: forward, backward, clipping and the optimizer, on random tokens and initial values.
#pragma once
#include <string>
#include <vector>

#include "core/context.h"
#include "model/activations.h"
#include "train/config.h"

namespace scfa {

struct StepCase {
  std::string name;
  Config config;                    // with its vocabulary, and of a schedule the last stage only
  bool assumes_vocabulary = false;  // the text is not there
  Recompute recompute = Recompute::kNone;
};

struct StepTime {
  double milliseconds = 0;  // median
  int64_t bytes = 0;        // that training takes on the device
  double launch = 0;        // milliseconds that the host takes to launch the work on a GPU; median
  std::string gemms;        // how the algorithms of GEMMs were chosen; empty on a CPU
  ProfileTimes profile;     // of the ops of one more step, if asked for
};

// The accumulation of the config's micro-batches is part of a step. With graphs the host launches a step while the one
// before it runs, as in training, and a step takes from the end of that one to its own. Throws Error if memory does not
// suffice.
StepTime time_step(Context& ctx, const StepCase& settings, int repeats, bool profile);

struct StepChanges {                // to the configs; what is empty or 0 is as they have it
  std::vector<int64_t> lengths;     // each config with each
  int64_t sequences = 0;            // of a micro-batch, which is then the whole step
  int64_t vocabulary = 0;           // where the config leaves it to the text
  bool vocabulary_of_text = false;  // in place of that, if the text is there
  std::string recompute;            // none, gelu, norms or block; the config's auto is none
  std::string precision;            // auto or fp8
};

// The cases of a table. Throws Error naming the file.
std::vector<StepCase> step_cases(const std::vector<std::string>& files, const StepChanges& changes);

// Prints the table, with profile the times of ops below each case, and, if csv is not empty, writes the table there
// too.
void bench_steps(Context& ctx, const std::vector<StepCase>& cases, int repeats, bool profile, const std::string& csv);

}  // namespace scfa

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
  Config config;  // with its vocabulary, and of a schedule the last stage only
  Recompute recompute = Recompute::kNone;
};

struct StepTime {
  double milliseconds = 0;  // median
  int64_t bytes = 0;        // that training takes on the device
  double launch = 0;        // milliseconds of these in which the host launches the work on a GPU; median
  std::string products;     // how the algorithms of products were chosen; empty on a CPU
  ProfileTimes profile;     // of the ops of one more step, if asked for
};

// The accumulation of the config's micro-batches is part of a step. Steps are whole when their losses are on the host.
// Throws Error if memory does not suffice.
StepTime time_step(Context& ctx, const StepCase& settings, int repeats, bool profile);

// The cases of a table: each config file with each length, or its own where there are none. sequences: of a
// micro-batch, which is then the whole step; 0: as the config has it. vocabulary: where the config leaves it to the
// text. recompute: none, gelu or block; empty: the config's, of auto none. Throws Error naming the file.
std::vector<StepCase> step_cases(const std::vector<std::string>& files, const std::vector<int64_t>& lengths,
                                 int64_t sequences, int64_t vocabulary, const std::string& recompute);

// Prints the table, with profile the times of ops below each case, and, if csv is not empty, writes the table there
// too.
void bench_steps(Context& ctx, const std::vector<StepCase>& cases, int repeats, bool profile, const std::string& csv);

}  // namespace scfa

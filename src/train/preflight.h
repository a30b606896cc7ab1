// What is checked before a run takes memory or touches its folder.
#pragma once
#include <string>

#include "data/token_file.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/console.h"

namespace scfa {

// Opens a split of the config's data; where there is none, the error says which command makes it.
TokenSet open_split(const Config& config, Split split);

// The config with the vocabulary that the data decides filled in, and everything checked.
Config complete(Config config, const TokenSet& set);

// Prints the memory plan by name. Throws Error if it does not fit, with the micro-batch that would.
void check_memory(const Config& config, Console& console);

// The state of a checkpoint that config may go on from. Throws Error if it is of another model or tokenizer; warns of
// whatever else will make the run another one than it would have been.
CheckpointState state_to_resume(const std::string& checkpoint, const Config& config, const TokenSet& set,
                                Console& console);

}  // namespace scfa

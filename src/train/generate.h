// Text from a checkpoint.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "model/decoder.h"

namespace scfa {

struct GenerateOptions {
  std::string checkpoint;  // a checkpoint, or a run: its newest
  std::string prompt;
  int64_t tokens = 200;  // to generate; fewer if the context fills up or the text ends
  SamplingOptions sampling;
  uint64_t seed = 1;
  std::string device = "auto";  // as in a config
};

// Calls write with the prompt, then with the bytes of each token as it comes. Returns how many tokens were generated.
int64_t generate(const GenerateOptions& options, const std::function<void(std::string_view)>& write);

}  // namespace scfa

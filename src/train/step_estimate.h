// How long a training step will take, by what it computes and what a GPU's data sheet says.
#pragma once
#include <string>

#include "model/activations.h"
#include "train/config.h"

namespace scfa {

// Seconds of a step of each of `ranks`, without what they exchange, in the last stage of a schedule of patterns; 0 for
// a GPU that is not a Hopper one in our list. Products take 77 % of peak FLOP/s, attention 40 %, and passes over memory
// 88 % of its bandwidth: on an H200 within 11 % of what ./bench step measures for 124 M parameters at 1k to 32k tokens.
double expected_step_seconds(const Config& config, int ranks, Recompute recompute, const std::string& gpu);

}  // namespace scfa

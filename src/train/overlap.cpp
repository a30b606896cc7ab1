#include "train/overlap.h"

#include <cmath>

#include "core/error.h"

namespace scfa {

OverlapPolicy::OverlapPolicy(const std::string& overlap) : beside_(overlap == "beside"), trying_(overlap == "auto") {}

bool OverlapPolicy::note_step(double seconds) {
  if (!trying_ || ++steps_ == 1) return false;  // the first step loads kernels
  const bool second_half = steps_ > 1 + kTriedSteps;
  // Each half's first step finds the ranks as the other way has left them.
  if ((steps_ - 2) % kTriedSteps != 0) (second_half ? beside_seconds_ : after_seconds_) += seconds;
  beside_ = steps_ >= 1 + kTriedSteps;
  trying_ = steps_ < 1 + 2 * kTriedSteps;
  return !trying_;
}

std::string OverlapPolicy::describe() const {
  const auto milliseconds = [](double seconds) { return std::lround(1e4 * seconds / (kTriedSteps - 1)) / 10.0; };
  return concat("gradients are added up ", beside_ ? "beside" : "after",
                " the backward pass: ", milliseconds(after_seconds_), " ms a step after it, ",
                milliseconds(beside_seconds_), " ms beside it");
}

}  // namespace scfa

// How far a run has come: what a checkpoint keeps beside parameters and moments.
#pragma once
#include <cstdint>
#include <optional>

namespace scfa {

struct TrainingState {
  int64_t step = 0;                       // updates done
  int64_t tokens = 0;                     // trained on
  std::optional<double> validation_loss;  // after that step, in nats per token, if it was evaluated

  // One more update, of so many tokens.
  void advance(int64_t tokens_of_step) {
    ++step;
    tokens += tokens_of_step;
    validation_loss.reset();
  }
};

}  // namespace scfa

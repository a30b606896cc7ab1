// Losses of tokens by their position in the context.
#pragma once
#include <algorithm>
#include <vector>

#include "model/gpt.h"

namespace scfa {

// Losses of the first `sequences` sequences of a model's last batch, of T tokens each. Waits for the device.
class TokenLosses {
 public:
  TokenLosses(Gpt& model, int64_t sequences, int64_t T);

  LossSums of(int64_t sequence, int64_t t) const {
    const auto i = static_cast<size_t>(sequence * length_ + t);
    return {static_cast<double>(loss_[i]), static_cast<double>(correct_[i]), 1};
  }

 private:
  int64_t length_;
  std::vector<float> loss_, correct_;
};

// Sums of a position each, over sequences.
class PositionLosses {
 public:
  explicit PositionLosses(int64_t T) : sums_(static_cast<size_t>(T)) {}

  LossSums& at(int64_t position) { return sums_.at(static_cast<size_t>(position)); }
  LossSums over(int64_t first, int64_t last) const;  // positions first to last, both included

 private:
  std::vector<LossSums> sums_;
};

// Calls add(first, last) for the ranges 0-63, 64-127, 128-255, ... of positions, as far as they lie
// within [begin, end).
template <class Add>
void for_each_position_range(int64_t begin, int64_t end, const Add& add) {
  for (int64_t first = 0, next = 64; first < end; first = next, next *= 2)
    if (next > begin) add(std::max(first, begin), std::min(next, end) - 1);
}

}  // namespace scfa

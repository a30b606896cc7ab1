#include "train/evaluate.h"

#include <algorithm>

#include "core/rng.h"

namespace scfa {

Evaluator::Evaluator(const TokenSet& set, int64_t windows, int64_t sequence_length, int64_t batch)
    : set_(set), available_(count_windows(set, sequence_length)), length_(sequence_length), batch_(batch) {
  require(available_ > 0, set.directory(), ": its validation split of ", set.tokens(),
          " tokens is shorter than one window of ", sequence_length,
          "; prepare it with a larger --val-fraction, or lower model.sequence_length");
  windows_ = std::min(windows, available_);
}

void Evaluator::run_batch(Gpt& model, Feeder& feeder, int64_t begin) {
  inputs_.resize(static_cast<size_t>(batch_ * length_));
  targets_.resize(inputs_.size());
  samples_.resize(static_cast<size_t>(batch_));
  for (int64_t b = 0; b < batch_; ++b) {  // rows past the last window repeat it and do not count
    const int64_t index = std::min(begin + b, windows_ - 1);
    read_window(set_, index * available_ / windows_, length_, inputs_.data() + b * length_,
                targets_.data() + b * length_);
    samples_[static_cast<size_t>(b)] = static_cast<uint32_t>(index);
  }
  Batch batch = feeder.put(inputs_, targets_, samples_);
  batch.rows = std::min(batch_, windows_ - begin);
  batch.step = kEvaluationStep;
  model.forward(batch, false);
}

double Evaluator::probe(Gpt& model, Feeder& feeder) {
  run_batch(model, feeder, 0);
  const LossSums sums = model.take_losses();
  return sums.loss / static_cast<double>(sums.tokens);
}

LossSums Evaluator::run(Gpt& model, Feeder& feeder, const std::function<void(double)>& progress) {
  LossSums sums;
  for (int64_t begin = 0; begin < windows_; begin += batch_) {
    progress(static_cast<double>(begin) / static_cast<double>(windows_));
    run_batch(model, feeder, begin);
    sums += model.take_losses();
  }
  return sums;
}

}  // namespace scfa

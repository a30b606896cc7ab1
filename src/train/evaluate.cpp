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

LossSums Evaluator::run_batch(Gpt& model, int64_t begin) {
  inputs_.resize(static_cast<size_t>(batch_ * length_));
  targets_.resize(inputs_.size());
  samples_.resize(static_cast<size_t>(batch_));
  for (int64_t b = 0; b < batch_; ++b) {  // rows past the last window repeat it and do not count
    const int64_t index = std::min(begin + b, windows_ - 1);
    read_window(set_, index * available_ / windows_, length_, inputs_.data() + b * length_,
                targets_.data() + b * length_);
    samples_[static_cast<size_t>(b)] = static_cast<uint32_t>(index);
  }
  Batch batch;
  batch.ids = Tensor(inputs_.data(), DType::kI32, Device::kCpu, {batch_, length_});
  batch.targets = Tensor(targets_.data(), DType::kI32, Device::kCpu, {batch_, length_});
  batch.rows = std::min(batch_, windows_ - begin);
  batch.samples = samples_.data();
  batch.step = kEvaluationStep;
  return model.forward(batch, false);
}

double Evaluator::probe(Gpt& model) {
  const LossSums sums = run_batch(model, 0);
  return sums.loss / static_cast<double>(sums.tokens);
}

LossSums Evaluator::run(Gpt& model, const std::function<void(double)>& progress) {
  LossSums sums;
  for (int64_t begin = 0; begin < windows_; begin += batch_) {
    progress(static_cast<double>(begin) / static_cast<double>(windows_));
    sums += run_batch(model, begin);
  }
  return sums;
}

}  // namespace scfa

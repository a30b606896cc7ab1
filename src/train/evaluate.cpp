#include "train/evaluate.h"

#include <algorithm>

#include "core/rng.h"

namespace scfa {

Evaluator::Evaluator(const TokenSet& set, int64_t windows, int64_t sequence_length, int64_t batch)
    : set_(set),
      available_(count_windows(set, sequence_length)),
      length_(sequence_length),
      batch_(batch),
      inputs_(static_cast<size_t>(batch * sequence_length)),
      targets_(inputs_.size()),
      samples_(static_cast<size_t>(batch)) {
  require(available_ > 0, set.directory(), ": its validation split of ", set.tokens(),
          " tokens is shorter than one window of ", sequence_length,
          "; prepare it with a larger --val-fraction, or lower model.sequence_length");
  windows_ = std::min(windows, available_);
}

LossSums Evaluator::run(Gpt& model, const std::function<void(double)>& progress) {
  LossSums sums;
  for (int64_t begin = 0; begin < windows_; begin += batch_) {
    progress(static_cast<double>(begin) / static_cast<double>(windows_));
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
    sums += model.forward(batch, false);
  }
  return sums;
}

}  // namespace scfa

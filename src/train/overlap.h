// When gradients are added up over ranks, train.overlap: beside the backward pass or after it. Sums beside it hide a
// slow network. Between GPUs with fast links they can cost more than they hide: they take multiprocessors from GEMMs
// and attention, and power. So "auto" times some steps of each in the first ones and keeps the faster.
#pragma once
#include <cstdint>
#include <string>

namespace scfa {

class OverlapPolicy {
 public:
  static constexpr int64_t kTriedSteps = 4;  // of each way; the first of them does not count

  // overlap: "beside", "after" or "auto".
  explicit OverlapPolicy(const std::string& overlap);

  bool beside() const { return beside_; }  // in the step that comes next

  // After each step, with the time it took. True once: when both ways have been timed, and settle() is to follow.
  bool note_step(double seconds);
  bool beside_was_faster() const { return beside_seconds_ < after_seconds_; }
  void settle(bool beside) { beside_ = beside; }  // the same on all ranks

  // "gradients are added up after the backward pass: 1.2 ms a step after it, 3.4 ms beside it"
  std::string describe() const;

 private:
  bool beside_, trying_;
  int64_t steps_ = 0;  // done while trying
  double after_seconds_ = 0, beside_seconds_ = 0;
};

}  // namespace scfa

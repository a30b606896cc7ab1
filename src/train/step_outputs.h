// The losses and the gradient norm of training steps, on their way from the device to the host. On a GPU they are
// copied to page-locked memory behind the work of their step, so the host can launch the next step before it waits for
// them.
#pragma once
#include <array>
#include <cstdint>

#include "core/context.h"
#include "model/gpt.h"

namespace scfa {

struct StepOutput {
  LossSums sums;
  double grad_norm = 0;
};

class StepOutputs {
 public:
  static constexpr int64_t kMost = 2;  // steps that can be on their way

  explicit StepOutputs(Context& ctx);
  ~StepOutputs();
  StepOutputs(const StepOutputs&) = delete;
  StepOutputs& operator=(const StepOutputs&) = delete;

  // Behind what was launched for a step: loss_sums, (3) f64 as in add_losses, set to zero afterwards, and norm, (1)
  // f32.
  void send(const Tensor& loss_sums, const Tensor& norm);
  // Of the step that was sent first; waits until the device has done it.
  StepOutput receive();

  int64_t on_their_way() const { return sent_ - received_; }

 private:
  struct Values {
    double sums[3];
    float norm;
  };
  Values& values(int64_t step);
  Event event(int64_t step) const { return arrived_[static_cast<size_t>(step % kMost)]; }

  Context& ctx_;
  std::array<Values, kMost> on_host_{};  // on a CPU
  PinnedBuffer pinned_;                  // on a GPU
  std::array<Event, kMost> arrived_{};
  int64_t sent_ = 0, received_ = 0;
};

}  // namespace scfa

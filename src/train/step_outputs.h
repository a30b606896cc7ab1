// The losses and the gradient norm of training steps, on their way from the device to the host, and how long the steps
// took. On a GPU they are copied to page-locked memory behind the work of their step, so the host can launch the next
// step before it waits for them.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>

#include "core/context.h"
#include "model/gpt.h"

namespace scfa {

struct StepOutput {
  LossSums sums;
  double grad_norm = 0;
  double seconds = 0;  // by the device's clock, from begin(), or from the end of the step before if that was later
};

class StepOutputs {
 public:
  static constexpr int64_t kMaxInFlight = 2;  // steps sent and not received

  explicit StepOutputs(Context& ctx);
  ~StepOutputs();  // waits for those in flight
  StepOutputs(const StepOutputs&) = delete;
  StepOutputs& operator=(const StepOutputs&) = delete;

  void begin();  // before the first work of a step is launched
  // Behind what was launched for a step: loss_sums, (3) f64 as in add_losses, set to zero afterwards, and norm, (1)
  // f32.
  void send(const Tensor& loss_sums, const Tensor& norm);
  // Of the step that was sent first; waits until the device has done it.
  StepOutput receive();

  int64_t in_flight() const { return sent_ - received_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kSlots = kMaxInFlight + 1;  // the end of the step received last is still to be known
  struct Values {
    double sums[3];
    float norm;
  };
  struct Slot {
    Values on_host{};                      // on a CPU
    Event begin = nullptr, end = nullptr;  // on a GPU
    Clock::time_point begin_time, end_time;
    bool follows = false;  // the step before was still in flight
  };
  Slot& slot(int64_t step) { return slots_[static_cast<size_t>(step % kSlots)]; }
  Values& values(int64_t step);

  Context& ctx_;
  PinnedBuffer pinned_;
  std::array<Slot, kSlots> slots_;
  int64_t sent_ = 0, received_ = 0;
};

}  // namespace scfa

#include "train/step_outputs.h"

namespace scfa {

StepOutputs::StepOutputs(Context& ctx) : ctx_(ctx) {
  if (!ctx.on_gpu()) return;
  pinned_ = PinnedBuffer(kSlots * sizeof(Values));
  for (Slot& slot : slots_) slot.begin = gpu::create_event(true), slot.end = gpu::create_event(true);
}

StepOutputs::~StepOutputs() {
  if (!ctx_.on_gpu()) return;
  try {
    while (in_flight() > 0) receive();
  } catch (const Error&) {  // of the device: what ends the program has said it
  }
  for (const Slot& slot : slots_) {
    gpu::destroy_event(slot.begin);
    gpu::destroy_event(slot.end);
  }
}

StepOutputs::Values& StepOutputs::values(int64_t step) {
  return ctx_.on_gpu() ? static_cast<Values*>(pinned_.data())[step % kSlots] : slot(step).on_host;
}

void StepOutputs::begin() {
  Slot& step = slot(sent_);
  step.follows = in_flight() > 0;
  if (ctx_.on_gpu())
    gpu::record(step.begin, ctx_.stream());
  else
    step.begin_time = Clock::now();
}

void StepOutputs::send(const Tensor& loss_sums, const Tensor& norm) {
  require(in_flight() < kMaxInFlight, "step outputs: ", kMaxInFlight, " steps are on their way already");
  require_tensor(loss_sums, "step outputs", "loss_sums", DType::kF64, {3});
  require_tensor(norm, "step outputs", "norm", DType::kF32, {1});
  Values& to = values(sent_);
  if (ctx_.on_gpu()) {
    gpu::copy_to_pinned(to.sums, loss_sums.data, sizeof to.sums, ctx_.stream());
    gpu::copy_to_pinned(&to.norm, norm.data, sizeof to.norm, ctx_.stream());
    gpu::record(slot(sent_).end, ctx_.stream());
  } else {
    ctx_.copy(Tensor(to.sums, DType::kF64, Device::kCpu, {3}), loss_sums);
    ctx_.copy(Tensor(&to.norm, DType::kF32, Device::kCpu, {1}), norm);
    slot(sent_).end_time = Clock::now();
  }
  ctx_.zero(loss_sums);
  ++sent_;
}

StepOutput StepOutputs::receive() {
  require(in_flight() > 0, "step outputs: no step is on its way");
  Slot& step = slot(received_);
  const Slot& before = slot(received_ + kSlots - 1);
  const Values& from = values(received_);
  StepOutput output;
  if (ctx_.on_gpu()) {
    gpu::synchronize(step.end);
    output.seconds = 1e-3 * gpu::milliseconds_between(step.follows ? before.end : step.begin, step.end);
  } else {
    const Clock::time_point begin = step.follows ? before.end_time : step.begin_time;
    output.seconds = std::chrono::duration<double>(step.end_time - begin).count();
  }
  output.sums = {from.sums[0], from.sums[1], static_cast<int64_t>(from.sums[2])};
  output.grad_norm = static_cast<double>(from.norm);
  ++received_;
  return output;
}

}  // namespace scfa

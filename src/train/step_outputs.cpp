#include "train/step_outputs.h"

namespace scfa {

StepOutputs::StepOutputs(Context& ctx) : ctx_(ctx) {
  if (!ctx.on_gpu()) return;
  pinned_ = PinnedBuffer(kMost * sizeof(Values));
  for (Event& event : arrived_) event = gpu::create_event(false);
}

StepOutputs::~StepOutputs() {
  if (!ctx_.on_gpu()) return;
  for (const Event event : arrived_)
    if (event != nullptr) gpu::destroy_event(event);
}

StepOutputs::Values& StepOutputs::values(int64_t step) {
  Values* all = ctx_.on_gpu() ? static_cast<Values*>(pinned_.data()) : on_host_.data();
  return all[step % kMost];
}

void StepOutputs::send(const Tensor& loss_sums, const Tensor& norm) {
  require(on_their_way() < kMost, "step outputs: ", kMost, " steps are on their way already");
  require_tensor(loss_sums, "step outputs", "loss_sums", DType::kF64, {3});
  require_tensor(norm, "step outputs", "norm", DType::kF32, {1});
  Values& to = values(sent_);
  if (ctx_.on_gpu()) {
    gpu::copy_to_pinned(to.sums, loss_sums.data, sizeof to.sums, ctx_.stream());
    gpu::copy_to_pinned(&to.norm, norm.data, sizeof to.norm, ctx_.stream());
    gpu::record(event(sent_), ctx_.stream());
  } else {
    ctx_.copy(Tensor(to.sums, DType::kF64, Device::kCpu, {3}), loss_sums);
    ctx_.copy(Tensor(&to.norm, DType::kF32, Device::kCpu, {1}), norm);
  }
  ctx_.zero(loss_sums);
  ++sent_;
}

StepOutput StepOutputs::receive() {
  require(on_their_way() > 0, "step outputs: no step is on its way");
  if (ctx_.on_gpu()) gpu::synchronize(event(received_));
  const Values& from = values(received_++);
  return {.sums = {from.sums[0], from.sums[1], static_cast<int64_t>(from.sums[2])},
          .grad_norm = static_cast<double>(from.norm)};
}

}  // namespace scfa

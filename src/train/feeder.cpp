#include "train/feeder.h"

#include <cstring>

namespace scfa {

namespace {
constexpr size_t kSlots = 2;

int64_t slot_bytes(int64_t B, int64_t T) {
  return (2 * B * T + B + 1) * static_cast<int64_t>(sizeof(int32_t));
}

// (ids, targets, samples, step) one behind the other.
Batch batch_at(const void* ids, const void* targets, const void* samples, RandomStep step, Device device, int64_t B,
               int64_t T) {
  Batch batch;
  batch.step = step;
  batch.ids = ConstTensor(ids, DType::kI32, device, {B, T});
  batch.targets = ConstTensor(targets, DType::kI32, device, {B, T});
  batch.samples = ConstTensor(samples, DType::kI32, device, {B});
  return batch;
}
}  // namespace

int64_t Feeder::memory(const Context& ctx, int64_t B, int64_t T) {
  return ctx.on_gpu() ? static_cast<int64_t>(kSlots) * slot_bytes(B, T) : 0;
}

Feeder::Feeder(Context& ctx, int64_t B, int64_t T) : ctx_(ctx), batch_(B), length_(T) {
  if (!ctx.on_gpu()) return;
  const auto bytes = static_cast<size_t>(slot_bytes(B, T));
  for (size_t i = 0; i < kSlots; ++i)
    slots_.push_back(
        {PinnedBuffer(bytes), Buffer(bytes, Device::kGpu), gpu::create_event(false), gpu::create_event(false)});
}

Feeder::~Feeder() {
  for (Slot& slot : slots_) {
    gpu::destroy_event(slot.copied);
    gpu::destroy_event(slot.used);
  }
}

Batch Feeder::put(const std::vector<int32_t>& ids, const std::vector<int32_t>& targets,
                  const std::vector<uint32_t>& samples, uint32_t step, int64_t rows) {
  const auto tokens = static_cast<size_t>(batch_ * length_);
  require(ids.size() == tokens && targets.size() == tokens && samples.size() == static_cast<size_t>(batch_),
          "feeder: a batch of ", ids.size(), " tokens, not ", tokens);
  Batch batch = ctx_.on_gpu()
                    ? copy_to_device(ids, targets, samples, step)
                    : batch_at(ids.data(), targets.data(), samples.data(), step, Device::kCpu, batch_, length_);
  batch.rows = rows;
  return batch;
}

Batch Feeder::copy_to_device(const std::vector<int32_t>& ids, const std::vector<int32_t>& targets,
                             const std::vector<uint32_t>& samples, uint32_t step) {
  const size_t tokens = ids.size();
  gpu::record(slots_[1 - next_].used, ctx_.stream());  // behind all work on the batch before
  Slot& slot = slots_[next_];
  next_ = 1 - next_;
  gpu::synchronize(slot.copied);  // of two calls ago: long done
  auto* host = static_cast<int32_t*>(slot.host.data());
  std::memcpy(host, ids.data(), tokens * sizeof(int32_t));
  std::memcpy(host + tokens, targets.data(), tokens * sizeof(int32_t));
  std::memcpy(host + 2 * tokens, samples.data(), samples.size() * sizeof(int32_t));
  std::memcpy(host + 2 * tokens + samples.size(), &step, sizeof step);
  gpu::wait(ctx_.copy_stream(), slot.used);
  gpu::copy_to_device(slot.device.data(), host, slot.device.bytes(), ctx_.copy_stream());
  gpu::record(slot.copied, ctx_.copy_stream());
  gpu::wait(ctx_.stream(), slot.copied);
  const auto* device = static_cast<const int32_t*>(slot.device.data());
  const int32_t* after_samples = device + 2 * tokens + samples.size();
  return batch_at(device, device + tokens, device + 2 * tokens,
                  {step, reinterpret_cast<const uint32_t*>(after_samples)}, Device::kGpu, batch_, length_);
}

}  // namespace scfa

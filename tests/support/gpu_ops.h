// Running an op on both devices on the same numbers.
#pragma once
#include <deque>
#include <functional>
#include <vector>

#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {

// One tensor of an op's call: on the CPU in f32, on the GPU in the type given, with the same numbers in both.
class Twin {
 public:
  Twin(DType gpu_type, std::initializer_list<int64_t> shape, bool floating = true)
      : device_(gpu_type, shape), again_(gpu_type, shape), host_(floating ? DType::kF32 : gpu_type, shape) {}

  Twin& fill_normal(uint64_t seed, double scale = 1.0) { return assign(device_.fill_normal(seed, scale).values()); }
  Twin& assign(const std::vector<double>& values) {
    device_.assign(values);
    again_.assign(device_.values());
    host_.assign(device_.values());
    return *this;
  }

  Array device_, again_, host_;
};

using Views = std::vector<Tensor>;

// Calls op(ctx, views) once on the CPU and twice on the GPU; then host_ has the CPU's results, device_ and again_ the
// GPU's, which must be the same bit for bit. Guard bands are checked as arrays go away.
inline void run_on_both(const std::vector<Twin*>& twins, const std::function<void(Context&, const Views&)>& op) {
  Context cpu;
  Views views;
  for (const Twin* twin : twins) views.push_back(twin->host_);
  op(cpu, views);
  Context ctx(Device::kGpu);
  for (const bool second : {false, true}) {
    std::deque<GpuCopy> copies;
    views.clear();
    for (const Twin* twin : twins) {
      copies.emplace_back(ctx, second ? twin->again_ : twin->device_);
      views.push_back(copies.back());
    }
    op(ctx, views);
    for (size_t i = 0; i < twins.size(); ++i) copies[i].download(second ? twins[i]->again_ : twins[i]->device_);
  }
  for (size_t i = 0; i < twins.size(); ++i)
    EXPECT_TRUE(twins[i]->device_.same_bits(twins[i]->again_)) << "tensor " << i;
}

inline testing::AssertionResult agree(const Twin& twin, double tolerance, double unit = 0.0) {
  return close(twin.device_.values(), twin.host_.values(), tolerance, unit);
}

}  // namespace scfa::test

#include "train/step_outputs.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

class StepOutputsOn : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { skip_without(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Devices, StepOutputsOn, testing::Values(Device::kCpu, Device::kGpu),
                         [](const auto& row) { return name_of(row.param); });

// What is sent is of its moment, and comes back in its order.
TEST_P(StepOutputsOn, AreThoseOfTheirSteps) {
  Context ctx(GetParam());
  const Buffer memory(64, GetParam());
  const Tensor sums(memory.data(), DType::kF64, GetParam(), {3});
  const Tensor norm(static_cast<char*>(memory.data()) + 32, DType::kF32, GetParam(), {1});
  StepOutputs outputs(ctx);
  const auto send = [&](double step) {
    outputs.begin();
    const std::vector<double> values = {step, 10 * step, 100 * step};
    const auto of_norm = static_cast<float>(step / 2);
    ctx.copy(sums, ConstTensor(values.data(), DType::kF64, Device::kCpu, {3}));
    ctx.copy(norm, ConstTensor(&of_norm, DType::kF32, Device::kCpu, {1}));
    ctx.synchronize();
    outputs.send(sums, norm);
  };
  const auto began = std::chrono::steady_clock::now();
  double seconds = 0;
  const auto expect = [&](double step) {
    const StepOutput output = outputs.receive();
    EXPECT_EQ(output.sums.loss, step);
    EXPECT_EQ(output.sums.correct, 10 * step);
    EXPECT_EQ(output.sums.tokens, static_cast<int64_t>(100 * step));
    EXPECT_EQ(output.grad_norm, step / 2);
    EXPECT_GT(output.seconds, 0);
    seconds += output.seconds;
  };
  for (int step = 1; step < 7; ++step) {
    send(step);
    EXPECT_EQ(outputs.in_flight(), step == 1 ? 1 : 2);
    if (step > 1) expect(step - 1);
  }
  double left = 1;
  ctx.copy(Tensor(&left, DType::kF64, Device::kCpu, {1}), sums.slice(0, 1));
  EXPECT_EQ(left, 0);  // the sums of the next step begin at 0
  send(7);
  EXPECT_TRUE(fails_naming([&] { outputs.send(sums, norm); }, {"2 steps are on their way already"}));
  expect(6), expect(7);
  // No time counts twice.
  EXPECT_LE(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() + 1e-4);
  EXPECT_TRUE(fails_naming([&] { outputs.receive(); }, {"no step is on its way"}));
}

}  // namespace
}  // namespace scfa::test

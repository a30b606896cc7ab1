// A whole attention layer captured in a CUDA graph: nothing returns to the host, launches have a fixed shape, so that
// replays on new data, with other segments, give what running it anew gives.
#include <gtest/gtest.h>

#include <memory>
#include <type_traits>
#include <vector>

#include "support/attention_tensors.h"

namespace scfa::test {
namespace {

constexpr int kSets = 4, kReplays = 100;

// A layer as a model's block runs it: everything that is launched between the GEMM before it and the one behind.
void run(const AttentionTensors& layer) {
  Context& ctx = layer.context();
  layer.draw(ctx);
  layer.assign(ctx);
  layer.build(ctx);
  layer.forward(ctx);
  layer.backward(ctx);
}

// Captures run(layer); empty on failure.
std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, cudaError_t (*)(cudaGraphExec_t)> capture(
    const AttentionTensors& layer) {
  const Stream stream = layer.context().stream();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  gpu::synchronize(stream, "before capture");
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  run(layer);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  cudaGraphDestroy(graph);
  return {replay, cudaGraphExecDestroy};
}

void check_replays(const HeadPatterns& patterns, AttentionLayout layout, int64_t D) {
  SCOPED_TRACE(concat(describe(patterns), ", layout ", static_cast<int>(layout), ", D ", D));
  Context ctx(Device::kGpu);
  const AttentionTensors layer(
      ctx, {.shape = {.B = 2, .T = 1900, .H = 9, .D = D}, .layout = layout, .patterns = patterns}, 1);
  const Tensor& qkv = layer.inputs.front();
  std::vector<Array> inputs;
  std::vector<std::vector<Array>> want;
  for (int i = 0; i < kSets; ++i) {
    inputs.emplace_back("inputs", qkv);
    inputs.back().fill_normal(static_cast<uint64_t>(10 + i));
    ctx.copy(qkv, inputs.back());
    layer.poison_results();
    run(layer);
    want.push_back(layer.result_arrays());
  }
  const auto replay = capture(layer);
  ASSERT_NE(replay, nullptr);
  for (int i = 0; i < kReplays; ++i) {
    const auto set = static_cast<size_t>(i * 7 % kSets);
    ctx.copy(qkv, inputs[set]);
    layer.poison_results();
    ASSERT_EQ(cudaGraphLaunch(replay.get(), ctx.stream()), cudaSuccess);
    ASSERT_TRUE(same_results(layer.result_arrays(), want[set])) << "replay " << i;
  }
}

class AttentionGraph : public GpuTest {};

TEST_F(AttentionGraph, ReplaysEqualRunningAnew) {
  const AttentionPattern hash{.pattern = "hash", .buckets = 16, .attend_self = {}};
  check_replays({hash}, AttentionLayout::kSharedQk, 64);
  check_replays({hash}, AttentionLayout::kQkv, 64);
  check_replays({{.pattern = "hash", .buckets = 2, .attend_self = {}}}, AttentionLayout::kSharedQk, 64);
  check_replays({hash}, AttentionLayout::kSharedQk, 128);
  check_replays({{.pattern = "dense", .attend_self = {}}}, AttentionLayout::kQkv, 64);
  check_replays({{.pattern = "drop", .attend_self = {}}}, AttentionLayout::kQkv, 128);
  check_replays({{.pattern = "drop", .attend_self = {}}}, AttentionLayout::kSharedQk, 64);
  check_replays({{.pattern = "drop", .attend_self = {}}}, AttentionLayout::kSharedQk, 128);
  const AttentionPattern rounds{.pattern = "hash", .buckets = 16, .rounds = 2, .attend_self = {}};
  check_replays({rounds}, AttentionLayout::kSharedQk, 64);
  const AttentionPattern probes{.pattern = "hash", .buckets = 16, .probes = 2, .balance = "prefix", .attend_self = {}};
  check_replays({probes}, AttentionLayout::kQkv, 64);
  const AttentionPattern window{.pattern = "dense", .attend_self = {}, .window = 256, .heads = 3};
  check_replays({window, rounds}, AttentionLayout::kQkv, 128);
}

}  // namespace
}  // namespace scfa::test

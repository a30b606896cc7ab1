// A whole attention layer captured in a CUDA graph: nothing returns to the host, launches have a fixed shape, so that
// replays on new data, with other segments, give what running it anew gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/gpu.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/patterns.h"
#include "support/array.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr int64_t kB = 2, kT = 1900, kH = 9;
constexpr int kSets = 4, kReplays = 100;

struct Layer {
  AttentionPattern pattern;
  bool shared;
  Context ctx{Device::kGpu};
  Arena arena;
  Segments segments;
  Array qkv, keys, norm, out, lse, dout, dqkv, dkeys, projections, samples, scratch;
  GpuCopy qkv_gpu, keys_gpu, norm_gpu, out_gpu, lse_gpu, dout_gpu, dqkv_gpu, dkeys_gpu, projections_gpu, samples_gpu,
      scratch_gpu;

  static int64_t segment_bytes(int64_t D, int64_t count) {
    Arena measure(Device::kGpu);
    plan_segments(measure, kB, kH, kT, D, count);
    return measure.used();
  }
  Layer(const AttentionPattern& p, bool shared_keys, int64_t D)
      : pattern(p),
        shared(shared_keys),
        arena(Device::kGpu, segment_bytes(D, segment_count(p))),
        segments(plan_segments(arena, kB, kH, kT, D, segment_count(p))),
        qkv(DType::kBF16, {kB, kT, shared ? 2 : 3, kH, D}),
        keys(DType::kBF16, {kB, kT, kH, D}),
        norm({kB, kT, kH}),
        out(DType::kBF16, {kB, kT, kH, D}),
        lse({kB, kH, kT}),
        dout(DType::kBF16, {kB, kT, kH, D}),
        dqkv(DType::kBF16, {kB, kT, shared ? 2 : 3, kH, D}),
        dkeys(DType::kBF16, {kB, kT, kH, D}),
        projections({kH, std::max<int64_t>(1, p.buckets / 2), D}),
        samples(DType::kI32, {kB}),
        scratch({attention_scratch(ctx, segments, D)}),
        qkv_gpu(ctx, qkv),
        keys_gpu(ctx, keys),
        norm_gpu(ctx, norm),
        out_gpu(ctx, out),
        lse_gpu(ctx, lse),
        dout_gpu(ctx, dout.fill_normal(1)),
        dqkv_gpu(ctx, dqkv),
        dkeys_gpu(ctx, dkeys),
        projections_gpu(ctx, projections),
        samples_gpu(ctx, samples.fill(0)),
        scratch_gpu(ctx, scratch) {}

  void run() {
    const Tensor q = part_of(qkv_gpu, 0), v = part_of(qkv_gpu, shared ? 1 : 2);
    const Tensor k = shared ? Tensor(keys_gpu) : part_of(qkv_gpu, 1), none;
    if (needs_projections(pattern)) draw_projections(ctx, projections_gpu, 1, 0, 0);
    assign_segments(ctx, segments.q_segment, segments.k_segment, pattern,
                    {.q = q,
                     .k = shared ? none : k,
                     .projections = needs_projections(pattern) ? Tensor(projections_gpu) : none,
                     .samples = samples_gpu,
                     .seed = 1,
                     .step = 0,
                     .layer = 0},
                    shared ? SharedKeys{k, norm_gpu} : SharedKeys{});
    build_segments(ctx, segments, attends_self(pattern));
    attention_forward(ctx, out_gpu, lse_gpu, q, k, v, segments, 0.125f, scratch_gpu);
    attention_backward(ctx, part_of(dqkv_gpu, 0), shared ? Tensor(dkeys_gpu) : part_of(dqkv_gpu, 1),
                       part_of(dqkv_gpu, shared ? 1 : 2), dout_gpu, q, k, v, out_gpu, lse_gpu, segments, 0.125f,
                       scratch_gpu, shared ? Tensor(norm_gpu) : none);
  }
  void poison() {
    for (const Tensor& t : {Tensor(out_gpu), Tensor(lse_gpu), Tensor(dqkv_gpu)})
      gpu::fill(t.data, 0xFF, static_cast<size_t>(t.bytes()), ctx.stream());
  }
  void download() { out_gpu.download(out), lse_gpu.download(lse), dqkv_gpu.download(dqkv); }
};

// What a run left, for comparing bit by bit.
struct Results {
  Array out, lse, dqkv;
  explicit Results(Layer& layer, int64_t D)
      : out(DType::kBF16, {kB, kT, kH, D}),
        lse({kB, kH, kT}),
        dqkv(DType::kBF16, {kB, kT, layer.shared ? 2 : 3, kH, D}) {
    layer.out_gpu.download(out), layer.lse_gpu.download(lse), layer.dqkv_gpu.download(dqkv);
  }
};

void check_replays(const AttentionPattern& pattern, bool shared, int64_t D) {
  SCOPED_TRACE(concat(describe(pattern), shared ? ", shared keys" : "", ", D ", D));
  Layer layer(pattern, shared, D);
  std::vector<Array> inputs;
  std::vector<Results> want;
  for (int i = 0; i < kSets; ++i) {
    inputs.emplace_back(Array(DType::kBF16, {kB, kT, shared ? 2 : 3, kH, D}));
    inputs.back().fill_normal(static_cast<uint64_t>(10 + i));
    layer.ctx.copy(layer.qkv_gpu, inputs.back());
    layer.poison();
    layer.run();
    want.emplace_back(layer, D);
  }
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  gpu::synchronize(layer.ctx.stream(), "before capture");
  ASSERT_EQ(cudaStreamBeginCapture(layer.ctx.stream(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  layer.run();
  ASSERT_EQ(cudaStreamEndCapture(layer.ctx.stream(), &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  for (int i = 0; i < kReplays; ++i) {
    const auto set = static_cast<size_t>(i * 7 % kSets);
    layer.ctx.copy(layer.qkv_gpu, inputs[set]);
    layer.poison();
    ASSERT_EQ(cudaGraphLaunch(replay, layer.ctx.stream()), cudaSuccess);
    layer.download();
    ASSERT_TRUE(layer.out.same_bits(want[set].out)) << "replay " << i;
    ASSERT_TRUE(layer.lse.same_bits(want[set].lse)) << "replay " << i;
    ASSERT_TRUE(layer.dqkv.same_bits(want[set].dqkv)) << "replay " << i;
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

class AttentionGraph : public GpuTest {};

TEST_F(AttentionGraph, ReplaysEqualRunningAnew) {
  const AttentionPattern hash{.pattern = "hash", .buckets = 16, .attend_self = {}};
  check_replays(hash, true, 64);
  check_replays(hash, false, 64);
  check_replays({.pattern = "hash", .buckets = 2, .attend_self = {}}, true, 64);
  check_replays(hash, true, 128);
  check_replays({.pattern = "dense", .attend_self = {}}, false, 64);
  check_replays({.pattern = "drop", .attend_self = {}}, false, 128);
  check_replays({.pattern = "drop", .attend_self = {}}, true, 64);
  check_replays({.pattern = "drop", .attend_self = {}}, true, 128);
}

}  // namespace
}  // namespace scfa::test

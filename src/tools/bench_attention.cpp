#include "tools/bench_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "core/rng.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/normalise.h"
#include "model/activations.h"
#include "train/machine.h"

namespace scfa {

namespace {

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void fill_normal(Tensor x, uint32_t sample) {
  float* data = x.as<float>();
  for (int64_t i = 0; i + 1 < x.numel(); i += 2) {
    const Random4 bits = random4(1, Purpose::kInit, 0, 0, 0, sample, static_cast<uint32_t>(i));
    normal2(bits.v[0], bits.v[1], data[i], data[i + 1]);
  }
}

// Keys are the normalised queries, as in the paper.
struct Workspace {
  Tensor qkv, keys, inverse_norm, out, lse, dout, dqkv, dkeys, projections, scratch;
  Segments segments;

  Workspace(Arena& arena, const Context& ctx, const AttentionCase& c) {
    const int64_t B = c.batch, T = c.T, H = c.heads, D = c.head_dim;
    const auto take = [&](std::initializer_list<int64_t> shape) { return arena.take("bench", DType::kF32, shape); };
    qkv = take({B, T, 2, H, D});
    dqkv = take({B, T, 2, H, D});
    for (Tensor* t : {&keys, &dkeys, &out, &dout}) *t = take({B, T, H, D});
    inverse_norm = take({B, T, H});
    lse = take({B, H, T});
    if (needs_projections(c.pattern)) projections = take({H, c.pattern.buckets / 2, D});
    segments = plan_segments(arena, B, H, T, segment_count(c.pattern));
    scratch = take({attention_scratch(ctx, B, T, H, D)});
  }
};

double count_pairs(const Segments& s) {
  double pairs = 0;
  const int64_t T = s.q_index.size(2), S = s.count();
  for (int64_t head = 0; head < s.q_index.size(0) * s.q_index.size(1); ++head)
    for (int32_t i = 0; i < s.q_begin.as<int32_t>()[head * (S + 1) + S]; ++i)
      pairs += s.k_limit.as<int32_t>()[head * T + i];
  return pairs;
}

}  // namespace

AttentionTimes time_attention(const AttentionCase& c, int repeats) {
  Context ctx;
  Arena measure(Device::kCpu);
  Workspace(measure, ctx, c);
  Arena arena(Device::kCpu, measure.used());
  const Workspace w(arena, ctx, c);
  fill_normal(w.qkv, 0);
  fill_normal(w.dout, 1);
  std::vector<int32_t> samples(static_cast<size_t>(c.batch), 0);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  const Tensor q = qkv_part(w.qkv, 0), v = qkv_part(w.qkv, 1), dq = qkv_part(w.dqkv, 0), dv = qkv_part(w.dqkv, 1);
  std::vector<double> prepare, forward, backward;
  for (int i = 0; i <= repeats; ++i) {  // the first is for warming up
    const double t0 = now_ms();
    if (w.projections) draw_projections(ctx, w.projections, 1, static_cast<uint32_t>(i), 0);
    normalise_keys(ctx, w.keys, w.inverse_norm, q);
    assign_segments(ctx, w.segments.q_segment, w.segments.k_segment, c.pattern,
                    {.q = q,
                     .k = {},
                     .projections = w.projections,
                     .samples = Tensor(samples.data(), DType::kI32, Device::kCpu, {c.batch}),
                     .seed = 1,
                     .step = static_cast<uint32_t>(i),
                     .layer = 0});
    build_segments(ctx, w.segments, attends_self(c.pattern));
    const double t1 = now_ms();
    attention_forward(ctx, w.out, w.lse, q, w.keys, v, w.segments, scale, w.scratch);
    const double t2 = now_ms();
    attention_backward(ctx, dq, w.dkeys, dv, w.dout, q, w.keys, v, w.out, w.lse, w.segments, scale, w.scratch);
    normalise_keys_backward(ctx, dq, w.dkeys, w.keys, w.inverse_norm);
    const double t3 = now_ms();
    if (i == 0) continue;
    prepare.push_back(t1 - t0);
    forward.push_back(t2 - t1);
    backward.push_back(t3 - t2);
  }
  return {median(prepare), median(forward), median(backward), count_pairs(w.segments)};
}

void bench_attention(const std::vector<int64_t>& lengths, const AttentionCase& shape, int repeats,
                     const std::string& csv) {
  std::vector<AttentionPattern> patterns{{.pattern = "dense", .attend_self = {}}};
  for (const int64_t buckets : {8, 16, 32})
    patterns.push_back({.pattern = "hash", .buckets = buckets, .attend_self = {}});
  for (const double rate : {0.5, 0.7}) patterns.push_back({.pattern = "drop", .drop_rate = rate, .attend_self = {}});
  std::ofstream file;
  if (!csv.empty()) {
    file.open(csv);
    require(file.good(), csv, ": cannot be written");
    file << "system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,gpu\n";
  }
  const Machine machine = this_machine();
  std::printf("%s, %d threads; batch x heads %ld, head dim %ld, f32; medians of %d\n", machine.cpu.c_str(),
              machine.threads, shape.batch * shape.heads, shape.head_dim, repeats);
  std::printf("%8s %-6s %8s %5s %11s %11s %11s %11s %9s %8s\n", "T", "pattern", "buckets", "drop", "prepare ms",
              "forward ms", "backward ms", "total ms", "GFLOP/s", "x dense");
  for (const int64_t T : lengths) {
    double dense = 0;
    for (const AttentionPattern& pattern : patterns) {
      AttentionCase settings = shape;
      settings.pattern = pattern;
      settings.T = T;
      const AttentionTimes t = time_attention(settings, repeats);
      if (pattern.pattern == "dense") dense = t.total();
      const int64_t buckets = segment_count(pattern);
      const double drop = pattern.pattern == "drop" ? pattern.drop_rate : 0;
      const double flops = 14.0 * t.pairs * static_cast<double>(shape.head_dim);  // 2 products forward, 5 backward
      std::printf("%8ld %-6s %8ld %5.2f %11.2f %11.2f %11.2f %11.2f %9.1f %8.2f\n", T, pattern.pattern.c_str(), buckets,
                  drop, t.prepare, t.forward, t.backward, t.total(), flops / t.total() * 1e-6, dense / t.total());
      std::fflush(stdout);
      if (file.is_open())
        file << "scfa," << pattern.pattern << ',' << T << ',' << shape.batch * shape.heads << ',' << shape.head_dim
             << ',' << buckets << ',' << drop << ',' << t.prepare << ',' << t.forward << ',' << t.backward << ','
             << t.total() << ",cpu\n";
    }
  }
  require(csv.empty() || file.flush().good(), csv, ": cannot be written");
}

}  // namespace scfa

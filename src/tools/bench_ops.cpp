#include "tools/bench_ops.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <utility>

#include "core/human.h"
#include "core/program.h"
#include "core/rng.h"
#include "kernels/adamw.h"
#include "kernels/attention/decode.h"
#include "kernels/attention/normalise.h"
#include "kernels/attention/patterns/projections.h"
#include "kernels/cast.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/layernorm.h"
#include "kernels/linear/linear.h"
#include "kernels/random.h"
#include "kernels/rotary.h"
#include "tools/bench_attention.h"
#include "tools/bench_timer.h"
#include "train/machine.h"

namespace scfa {

namespace {

// What is timed and what it has to do at least.
struct OpCase {
  std::string sizes;
  std::vector<ConstTensor> reads, writes;  // an operand that is added to is in both
  std::function<void()> run;
  double flops = 0;
};

// Operands of a case. A case is made twice: with an arena that only measures, then with one that has memory.
class Operands {
 public:
  Operands(Context& ctx, Arena& arena, bool real) : ctx_(ctx), arena_(arena), real_(real) {}

  Tensor activations(std::initializer_list<int64_t> shape) { return normal(activation_type(ctx_.device()), shape); }
  Tensor floats(std::initializer_list<int64_t> shape) { return normal(DType::kF32, shape); }
  Tensor zeros(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.take("bench", dtype, shape);
    if (real_) ctx_.zero(t);
    return t;
  }
  Tensor ids(std::initializer_list<int64_t> shape, int64_t below) {  // as uneven as words are: small ids are frequent
    const Tensor t = arena_.take("bench", DType::kI32, shape);
    if (!real_) return t;
    std::vector<int32_t> values(static_cast<size_t>(t.numel()));
    for (size_t i = 0; i < values.size(); ++i) {
      const float u = uniform(random4(3, Purpose::kData, 0, 0, 0, 0, static_cast<uint32_t>(i)).v[0]);
      values[i] = static_cast<int32_t>(std::min(static_cast<double>(below - 1), std::pow(below, u) - 1));
    }
    ctx_.copy(t, ConstTensor(values.data(), DType::kI32, Device::kCpu, {t.numel()}));
    return t;
  }
  void fill(const Tensor& t) { fill_normal(ctx_, t, 1, ++count_); }
  Arena& arena() { return arena_; }
  bool real() const { return real_; }

 private:
  Tensor normal(DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = arena_.take("bench", dtype, shape);
    if (real_) fill(t);
    return t;
  }
  Context& ctx_;
  Arena& arena_;
  bool real_;
  uint32_t count_ = 0;
};

double linear_flops(const OpShape& s) {
  return 2.0 * static_cast<double>(s.rows * s.width) * static_cast<double>(s.outputs);
}

// ---- the ops --------------------------------------------------------------------------------------------------------

OpCase linear_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor x = o.activations({s.rows, s.width}), w = o.activations({s.outputs, s.width});
  const Tensor y = o.activations({s.rows, s.outputs}), bias = o.activations({s.outputs});
  return {.sizes = concat(s.rows, " x ", s.outputs, " x ", s.width, ", bias"),
          .reads = {x, w, bias},
          .writes = {y},
          .run = [=, &ctx] { linear_forward(ctx, y, x, w, bias); },
          .flops = linear_flops(s)};
}

OpCase linear_gelu_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor x = o.activations({s.rows, s.width}), w = o.activations({s.outputs, s.width});
  const Tensor y = o.activations({s.rows, s.outputs}), pre_gelu = o.activations({s.rows, s.outputs});
  const Tensor bias = o.activations({s.outputs});
  return {.sizes = concat(s.rows, " x ", s.outputs, " x ", s.width, ", bias"),
          .reads = {x, w, bias},
          .writes = {pre_gelu, y},
          .run = [=, &ctx] { linear_gelu_forward(ctx, y, pre_gelu, x, w, bias, Gelu::kErf); },
          .flops = linear_flops(s)};
}

OpCase linear_dgrad_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor dy = o.activations({s.rows, s.outputs}), w = o.activations({s.outputs, s.width});
  const Tensor dx = o.activations({s.rows, s.width});
  return {.sizes = concat(s.rows, " x ", s.width, " x ", s.outputs),
          .reads = {dy, w},
          .writes = {dx},
          .run = [=, &ctx] { linear_dgrad(ctx, dx, dy, w); },
          .flops = linear_flops(s)};
}

// Of the MLP's second GEMM, whose input has s.outputs columns.
OpCase linear_gelu_dgrad_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor dy = o.activations({s.rows, s.width}), w = o.activations({s.width, s.outputs});
  const Tensor pre_gelu = o.activations({s.rows, s.outputs}), dpre_gelu = o.activations({s.rows, s.outputs});
  const Tensor dbias = o.floats({s.outputs}), bias = o.activations({s.outputs});
  return {.sizes = concat(s.rows, " x ", s.outputs, " x ", s.width, ", bias"),
          .reads = {dy, w, pre_gelu, bias, dbias},
          .writes = {dpre_gelu, dbias},
          .run = [=, &ctx] { linear_gelu_dgrad(ctx, dpre_gelu, dbias, dy, w, pre_gelu, bias, Gelu::kErf); },
          .flops = linear_flops(s)};
}

OpCase linear_wgrad_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor dy = o.activations({s.rows, s.outputs}), x = o.activations({s.rows, s.width});
  const Tensor dw = o.floats({s.outputs, s.width});
  return {.sizes = concat(s.outputs, " x ", s.width, " x ", s.rows),
          .reads = {dy, x, dw},
          .writes = {dw},
          .run = [=, &ctx] { linear_wgrad(ctx, dw, dy, x); },
          .flops = linear_flops(s)};
}

OpCase linear_bgrad_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor dy = o.activations({s.rows, s.outputs}), dbias = o.floats({s.outputs});
  return {.sizes = concat(s.rows, " x ", s.outputs), .reads = {dy, dbias}, .writes = {dbias}, .run = [=, &ctx] {
            linear_bgrad(ctx, dbias, dy);
          }};
}

OpCase cast_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor from = o.floats({s.parameters}), to = o.activations({s.parameters});
  return {.sizes = concat(s.parameters, " from f32"), .reads = {from}, .writes = {to}, .run = [=, &ctx] {
            cast(ctx, to, from);
          }};
}

OpCase gelu_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor x = o.activations({s.rows, s.outputs}), y = o.activations({s.rows, s.outputs});
  const Tensor bias = o.activations({s.outputs});
  return {.sizes = concat(s.rows, " x ", s.outputs, ", bias"), .reads = {x, bias}, .writes = {y}, .run = [=, &ctx] {
            gelu_forward(ctx, y, x, bias, Gelu::kErf);
          }};
}

OpCase gelu_backward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor x = o.activations({s.rows, s.outputs}), dy = o.activations({s.rows, s.outputs});
  const Tensor dx = o.activations({s.rows, s.outputs}), bias = o.activations({s.outputs});
  const Tensor dbias = o.floats({s.outputs});
  return {
      .sizes = concat(s.rows, " x ", s.outputs, ", bias"), .reads = {x, dy, bias}, .writes = {dx}, .run = [=, &ctx] {
        gelu_backward(ctx, dx, dbias, dy, x, bias, Gelu::kErf);
      }};
}

OpCase layernorm_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor x = o.activations({s.rows, s.width}), skip = o.activations({s.rows, s.width});
  const Tensor r = o.activations({s.rows, s.width}), y = o.activations({s.rows, s.width});
  const Tensor w = o.activations({s.width}), b = o.activations({s.width});
  const Tensor mean = o.floats({s.rows}), rstd = o.floats({s.rows});
  return {.sizes = concat(s.rows, " x ", s.width, ", with residual"),
          .reads = {x, skip, w, b},
          .writes = {r, y, mean, rstd},
          .run = [=, &ctx] { layernorm_forward(ctx, y, r, mean, rstd, x, skip, w, b, 1e-5f); }};
}

OpCase layernorm_backward_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor dr = o.zeros(activation_type(ctx.device()), {s.rows, s.width}), dy = o.activations({s.rows, s.width});
  const Tensor r = o.activations({s.rows, s.width}), w = o.activations({s.width});
  const Tensor dw = o.floats({s.width}), db = o.floats({s.width}), dr_sum = o.floats({s.width});
  const Tensor mean = o.floats({s.rows}), rstd = o.floats({s.rows});
  const Tensor scratch = o.floats({layernorm_backward_scratch(ctx, s.rows, s.width)});
  return {.sizes = concat(s.rows, " x ", s.width),
          .reads = {dr, dy, r, w, mean, rstd, dw, db, dr_sum},
          .writes = {dr, dw, db, dr_sum},
          .run = [=, &ctx] { layernorm_backward(ctx, dr, dw, db, dr_sum, dr, dy, r, w, mean, rstd, scratch); }};
}

OpCase embedding_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const int64_t B = s.rows / s.length;
  const Tensor x = o.activations({B, s.length, s.width}), wte = o.activations({s.vocabulary, s.width});
  const Tensor wpe = o.activations({s.length, s.width}), ids = o.ids({B, s.length}, s.vocabulary);
  return {.sizes = concat(B, " x ", s.length, " x ", s.width),
          .reads = {x, wpe, ids},  // of the embedding only the rows of the ids
          .writes = {x},
          .run = [=, &ctx] { embedding_forward(ctx, x, ids, wte, wpe, 0); }};
}

OpCase embedding_backward_case(Context& ctx, Operands& o, const OpShape& s) {
  const int64_t B = s.rows / s.length;
  const Tensor dx = o.activations({B, s.length, s.width}), dwte = o.floats({s.vocabulary, s.width});
  const Tensor dwpe = o.floats({s.length, s.width}), ids = o.ids({B, s.length}, s.vocabulary);
  const Tensor scratch = o.floats({embedding_backward_scratch(ctx, s.rows, s.width)});
  return {.sizes = concat(B, " x ", s.length, " x ", s.width),
          .reads = {dx, dx, ids, dwpe},  // once for tokens, once for positions
          .writes = {dwpe},
          .run = [=, &ctx] { embedding_backward(ctx, dwte, dwpe, dx, ids, scratch); }};
}

OpCase cross_entropy_case(Context& ctx, Operands& o, const OpShape& s) {
  const int64_t rows = std::min<int64_t>(s.rows, 8192);  // the model's chunk
  const Tensor logits = o.activations({rows, s.vocabulary}), targets = o.ids({rows}, s.vocabulary);
  const Tensor losses = o.floats({rows}), correct = o.floats({rows});
  return {.sizes = concat(rows, " x ", s.vocabulary, ", with gradient"),
          .reads = {logits, targets},
          .writes = {logits, losses, correct},
          .run = [=, &ctx] { cross_entropy(ctx, losses, correct, logits, targets, s.vocabulary, 1e-5f); }};
}

OpCase adamw_case(Context& ctx, Operands& o, const OpShape& s) {
  const int64_t n = s.parameters;
  const Tensor p = o.floats({n}), m = o.zeros(DType::kF32, {n}), v = o.zeros(DType::kF32, {n}), g = o.floats({n});
  const Tensor copy = ctx.on_gpu() ? o.activations({n}) : Tensor();
  const Tensor norm = o.floats({1}), decays = o.zeros(DType::kU16, {(n + kDecayBlock - 1) / kDecayBlock});
  const AdamW settings{
      .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 10, .max_norm = 1.0f};
  return {.sizes = concat(n), .reads = {p, m, v, g, decays}, .writes = {p, m, v, copy}, .run = [=, &ctx] {
            adamw(ctx, p, m, v, copy, g, decays, norm, settings);
          }};
}

OpCase gradient_norm_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor g = o.floats({s.parameters}), norm = o.floats({1}), sum = o.zeros(DType::kF64, {1});
  return {.sizes = concat(s.parameters), .reads = {g}, .writes = {norm}, .run = [=, &ctx] {
            square_sum(ctx, sum, g);
            gradient_norm(ctx, norm, sum);
          }};
}

// Operands of attention, with the keys, segments and results that the ops before would have left.
struct FilledAttention : AttentionOperands {
  FilledAttention(Context& ctx, Operands& o, const OpShape& s, AttentionLayout layout = AttentionLayout::kSharedQk)
      : AttentionOperands(o.arena(), ctx,
                          {.shape = {.B = s.rows / s.length, .T = s.length, .H = s.heads, .D = s.head_dim},
                           .layout = layout,
                           .patterns = {s.pattern}}) {
    if (!o.real()) return;
    for (const std::vector<Tensor>* tensors : {&inputs, &gradients})
      for (const Tensor& t : *tensors) o.fill(t);
    ctx.zero(samples);
    draw(ctx);
    assign(ctx);
    build(ctx);
    forward(ctx);
  }
  std::string sizes() const {
    const auto [B, T, H, D, kv_heads] = problem.shape;
    return concat(B, " x ", T, " x ", H, " x ", D);
  }
  std::string sizes_and_pattern() const { return sizes() + ", " + describe(problem.patterns); }
};

// As bench_attention lays them out.
AttentionLayout layout_of(const AttentionPattern& pattern) {
  return pattern.pattern == "hash" ? AttentionLayout::kSharedQk : AttentionLayout::kQkv;
}

OpCase rotary_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s);
  return {.sizes = h.sizes(), .reads = {h.k}, .writes = {h.k}, .run = [=, &ctx] { rotary(ctx, h.k, 0, 10000.0, 1); }};
}

OpCase normalise_keys_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s);
  return {.sizes = h.sizes(), .reads = {h.q}, .writes = {h.k, h.inverse_norm}, .run = [=, &ctx] {
            normalise_keys(ctx, h.k, h.inverse_norm, h.q);
          }};
}

OpCase normalise_keys_backward_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s);
  return {.sizes = h.sizes(), .reads = {h.dq, h.dk, h.k, h.inverse_norm}, .writes = {h.dq}, .run = [=, &ctx] {
            normalise_keys_backward(ctx, h.dq, h.dk, h.k, h.inverse_norm);
          }};
}

OpCase draw_projections_case(Context& ctx, Operands& o, const OpShape& s) {
  const Tensor projections = o.floats({1, s.heads, std::max<int64_t>(1, s.pattern.buckets / 2), s.head_dim});
  return {.sizes = projections.describe(), .reads = {}, .writes = {projections}, .run = [=, &ctx] {
            draw_projections(ctx, projections, 1, 0, 0);
          }};
}

OpCase assign_segments_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s);
  OpCase c{.sizes = h.sizes_and_pattern(),
           .reads = {},
           .writes = {h.layer.relations[0].q_segment, h.layer.relations[0].k_segment},
           .run = [=, &ctx] { h.assign(ctx); }};
  if (needs_projections(s.pattern)) {
    c.reads = {h.q};
    c.flops = static_cast<double>(h.k.numel() * s.pattern.buckets);
  }
  return c;
}

OpCase build_segments_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s);
  const Segments& g = h.layer.relations[0];
  return {.sizes = h.sizes_and_pattern(),
          .reads = {g.q_segment, g.k_segment},
          .writes = {g.q_index, g.k_index, g.end_key, g.begin_query},
          .run = [=, &ctx] { h.build(ctx); }};
}

OpCase attention_forward_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s, layout_of(s.pattern));
  return {.sizes = h.sizes_and_pattern(),
          .reads = {h.q, h.k, h.v},
          .writes = {h.out, h.lse},
          .run = [=, &ctx] { h.forward(ctx); },
          .flops = o.real() ? 4.0 * all_pairs(ctx, h.layer.relations) * static_cast<double>(s.head_dim) : 0};
}

OpCase attention_backward_case(Context& ctx, Operands& o, const OpShape& s) {
  const FilledAttention h(ctx, o, s, layout_of(s.pattern));
  return {.sizes = h.sizes_and_pattern(),
          .reads = {h.q, h.k, h.v, h.out, h.dout, h.lse},
          .writes = {h.dq, h.dk, h.dv},
          .run = [=, &ctx] { h.backward(ctx); },
          .flops = o.real() ? 10.0 * all_pairs(ctx, h.layer.relations) * static_cast<double>(s.head_dim) : 0};
}

OpCase attention_decode_case(Context& ctx, Operands& o, const OpShape& s) {
  const int64_t H = s.heads, S = s.length, D = s.head_dim;
  const KeyValueCache cache{.keys = o.activations({H, S, D}),
                            .values = o.activations({H, S, D}),
                            .segments = o.zeros(DType::kU16, {1, H, S})};
  const Tensor q = o.activations({1, 1, H, D}), out = o.activations({1, 1, H, D});
  Segments relation;
  relation.q_segment = o.zeros(DType::kU16, {1, H, 1});
  const HeadRanges all{{0, S}};
  return {.sizes = concat(H, " x ", S, " x ", D),
          .reads = {cache.keys, cache.values, cache.segments, q},
          .writes = {out},
          .run =
              [=, &ctx] {
                attention_decode(ctx, out, {}, q, cache, {&relation, 1}, {&all, 1}, 0.125f);
              },
          .flops = 4.0 * static_cast<double>(H * S * D)};
}

struct NamedOp {
  const char* name;
  OpCase (*make)(Context&, Operands&, const OpShape&);
};
constexpr NamedOp kOps[] = {
    {"linear_forward", linear_forward_case},
    {"linear_gelu_forward", linear_gelu_forward_case},
    {"linear_dgrad", linear_dgrad_case},
    {"linear_gelu_dgrad", linear_gelu_dgrad_case},
    {"linear_wgrad", linear_wgrad_case},
    {"linear_bgrad", linear_bgrad_case},
    {"layernorm_forward", layernorm_forward_case},
    {"layernorm_backward", layernorm_backward_case},
    {"gelu_forward", gelu_forward_case},
    {"gelu_backward", gelu_backward_case},
    {"rotary", rotary_case},
    {"normalise_keys", normalise_keys_case},
    {"normalise_keys_backward", normalise_keys_backward_case},
    {"draw_projections", draw_projections_case},
    {"assign_segments", assign_segments_case},
    {"build_segments", build_segments_case},
    {"attention_forward", attention_forward_case},
    {"attention_backward", attention_backward_case},
    {"attention_decode", attention_decode_case},
    {"embedding_forward", embedding_forward_case},
    {"embedding_backward", embedding_backward_case},
    {"cross_entropy", cross_entropy_case},
    {"gradient_norm", gradient_norm_case},
    {"adamw", adamw_case},
    {"cast", cast_case},
};

double bytes_of(const std::vector<ConstTensor>& tensors) {
  double bytes = 0;
  for (const ConstTensor& t : tensors) bytes += static_cast<double>(t.bytes());
  return bytes;
}

}  // namespace

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const NamedOp& op : kOps) names.emplace_back(op.name);
  return names;
}

void bench_ops(Context& ctx, const std::vector<std::string>& names, const OpShape& shape, int repeats) {
  std::vector<NamedOp> chosen;
  for (const std::string& name : names) {
    const auto* op = std::find_if(std::begin(kOps), std::end(kOps), [&](const NamedOp& o) { return name == o.name; });
    require(op != std::end(kOps), name, ": is not an op; ./bench op lists them");
    chosen.push_back(*op);
  }
  const auto bytes_needed = [&](const NamedOp& op) {
    Arena measure(ctx.device());
    Operands planned(ctx, measure, false);
    op.make(ctx, planned, shape);
    return measure.used();
  };
  for (const NamedOp& op : chosen) check_fits(ctx, op.name, bytes_needed(op));
  const CacheFlush flush(ctx);
  const Peaks peaks = measure_peaks(ctx, flush);
  std::cout << printed("%s: copy %.0f GB/s (read + write), GEMM %.2f TFLOP/s (%ld cubed, %s)\n",
                       ctx.on_gpu() ? device_name(ctx.device()).c_str() : this_machine().cpu.c_str(), peaks.copy * 1e-9,
                       peaks.gemm * 1e-12, peaks.gemm_size, name_of(activation_type(ctx.device())));
  std::cout << printed("%-24s %-44s %10s %10s %9s %7s %10s %9s %10s\n", "op", "sizes", "ms", "MB", "GB/s", "of copy",
                       "GFLOP", "TFLOP/s", "of GEMM");
  flush_output();
  for (const NamedOp& op : chosen) {
    Arena arena(ctx.device(), bytes_needed(op));
    Operands operands(ctx, arena, true);
    const OpCase c = op.make(ctx, operands, shape);
    const double ms = time_op(ctx, flush, repeats, c.run);
    const double bytes = bytes_of(c.reads) + bytes_of(c.writes);
    std::cout << printed("%-24s %-44s %10.4f %10.1f %9.1f %6.1f%% ", op.name, c.sizes.c_str(), ms, bytes * 1e-6,
                         bytes / ms * 1e-6, 100 * bytes / ms * 1e3 / peaks.copy);
    if (c.flops > 0)
      std::cout << printed("%10.2f %9.2f %9.1f%%\n", c.flops * 1e-9, c.flops / ms * 1e-9,
                           100 * c.flops / ms * 1e3 / peaks.gemm);
    else
      std::cout << printed("%10s %9s %10s\n", "-", "-", "-");
    flush_output();
  }
}

}  // namespace scfa

#include "support/attention_tensors.h"

#include <cmath>
#include <utility>

#include "support/compare.h"

namespace scfa::test {

AttentionTensors::AttentionTensors(const AttentionShape& dims, Layout layout, uint64_t seed, double scale_of_inputs)
    : shape(dims),
      scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.D)))),
      lse({dims.B, dims.H, dims.T}) {
  const auto [B, T, H, D] = shape;
  // Fills `to` with q, k, v in the layout asked for.
  const auto lay_out = [&](std::vector<Array>& to, Tensor& a, Tensor& b, Tensor& c) {
    if (layout == Layout::kPacked) {
      for (int i = 0; i < 3; ++i) to.emplace_back(Array({B, T, H, D}));
      a = to[0], b = to[1], c = to[2];
    } else if (layout == Layout::kByHead) {
      for (int i = 0; i < 3; ++i) to.emplace_back(Array({B, H, T, D}));
      a = by_position(to[0]), b = by_position(to[1]), c = by_position(to[2]);
    } else if (layout == Layout::kShared) {
      to.emplace_back(Array({B, T, 2, H, D}));
      to.emplace_back(Array({B, T, H, D}));
      a = part_of(to[0], 0), b = to[1], c = part_of(to[0], 1);
    } else {
      to.emplace_back(Array({B, T, 3, H, D}));
      a = part_of(to[0], 0), b = part_of(to[0], 1), c = part_of(to[0], 2);
    }
  };
  lay_out(inputs_, q, k, v);
  lay_out(gradients_, dq, dk, dv);
  const bool strided = layout == Layout::kShared;
  for (auto [to, view] : {std::pair(&inputs_, &dout), std::pair(&outputs_, &out)}) {
    if (layout == Layout::kByHead) {
      to->emplace_back(Array({B, H, T, D}));
      *view = by_position(to->back());
    } else {
      to->emplace_back(Array({B, T, strided ? 3 : 1, H, D}));
      *view = part_of(to->back(), strided ? 1 : 0);
    }
  }
  for (Array& array : inputs_) array.fill_normal(seed++, scale_of_inputs);
}

void AttentionTensors::forward(const Segments& segments) {
  Context ctx;
  Array scratch({attention_scratch(ctx, segments, shape.D)});
  outputs_.back().poison();
  lse.poison();
  attention_forward(ctx, out, lse, q, k, v, segments, scale, scratch);
}

void AttentionTensors::backward(const Segments& segments, const ConstTensor& inverse_norm) {
  Context ctx;
  Array scratch({attention_scratch(ctx, segments, shape.D)});
  for (Array& array : gradients_) array.poison();
  attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, segments, scale, scratch, inverse_norm);
}

void AttentionTensors::expect_formulas(const Segments& segments, bool attend_self, double tolerance) {
  const std::vector<double> qs = values(q), ks = values(k), vs = values(v);
  const std::vector<uint8_t> visible = visibility(segments.q_segment, segments.k_segment, attend_self);
  const AttentionFormula want(shape, qs, ks, vs, visible, static_cast<double>(scale));
  EXPECT_TRUE(close(out, want.out, tolerance)) << "out";
  EXPECT_TRUE(close(lse, want.lse, tolerance)) << "lse";
  const AttentionGradients gradients(shape, qs, ks, vs, visible, static_cast<double>(scale), values(dout));
  // A query that sees one key has dq = 0, as a difference of terms of size one.
  constexpr double kUnit = 0.05;
  EXPECT_TRUE(close(dq, gradients.dq, tolerance, kUnit)) << "dq";
  EXPECT_TRUE(close(dk, gradients.dk, tolerance, kUnit)) << "dk";
  EXPECT_TRUE(close(dv, gradients.dv, tolerance)) << "dv";
}

bool AttentionTensors::bystanders_intact() const {
  const Tensor all = outputs_.back();
  if (all.ndim == 4 || all.size(2) == 1) return true;
  for (const int64_t part : {0, 2})
    for (const double x : values(part_of(all, part)))
      if (!std::isnan(x)) return false;  // poison is NaN
  return true;
}

std::vector<double> AttentionTensors::results() const {
  std::vector<double> all;
  for (const ConstTensor& t : {ConstTensor(out), ConstTensor(lse), ConstTensor(dq), ConstTensor(dk), ConstTensor(dv)}) {
    const std::vector<double> part = values(t);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace scfa::test

#include "support/attention_tensors.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "support/compare.h"

namespace scfa::test {

AttentionProblem problem_of(const AttentionShape& shape, AttentionLayout layout, int64_t segments, bool attend_self,
                            bool strided_out) {
  AttentionProblem problem{.shape = shape, .layout = layout, .segments = segments, .strided_out = strided_out};
  problem.patterns[0].attend_self = attend_self;
  return problem;
}

AttentionTensors::AttentionTensors(Context& ctx, const AttentionProblem& p, uint64_t seed, double scale_of_inputs)
    : GuardedMemory(ctx), AttentionOperands(arena(), ctx, p) {
  for (const Tensor& input : inputs) fill_normal(input, seed++, scale_of_inputs);
  ctx.zero(samples);
}

void AttentionTensors::set_segments(const std::vector<ChooseSegments>& choose) const {
  EXPECT_EQ(choose.size(), layer.relations.size());
  for (size_t r = 0; r < choose.size(); ++r) write_ids(context(), layer.relations[r], choose[r]);
  build(context());
}

void AttentionTensors::set_normalised_keys() const {
  std::vector<double> keys = read(q), inverse;
  const auto D = static_cast<std::ptrdiff_t>(shape().D);
  for (auto row = keys.begin(); row != keys.end(); row += D) {
    inverse.push_back(1.0 / std::sqrt(std::inner_product(row, row + D, row, 0.0)));
    for (auto x = row; x != row + D; ++x) *x *= inverse.back();
  }
  write(k, keys);
  write(inverse_norm, inverse);
}

void AttentionTensors::copy_inputs(const AttentionTensors& from) const {
  if (document_start) write(document_start, from.read(from.document_start));
  for (size_t i = 0; i < inputs.size(); ++i) write(inputs[i], from.read(from.inputs[i]));
  if (!shared_qk()) return;
  write(k, from.read(from.k));
  write(inverse_norm, from.read(from.inverse_norm));
}

void AttentionTensors::forward() const {
  for (const Tensor& output : outputs) poison(output);
  poison(scratch);
  AttentionOperands::forward(context());
}

void AttentionTensors::backward() const {
  for (const Tensor& gradient : gradients) poison(gradient);
  poison(scratch);
  AttentionOperands::backward(context());
}

void AttentionTensors::poison_results() const {
  for (const std::vector<Tensor>* tensors : {&outputs, &gradients})
    for (const Tensor& tensor : *tensors) poison(tensor);
  poison(scratch);
}

std::vector<uint8_t> AttentionTensors::visible() const {
  std::vector<uint8_t> seen;
  for (size_t r = 0; r < layer.relations.size(); ++r) {
    Segments relation;
    relation.q_segment = on_host(layer.relations[r].q_segment);
    relation.k_segment = on_host(layer.relations[r].k_segment);
    const std::vector<uint8_t> in_it =
        visibility({&relation, 1}, scfa::visibility(layer.patterns, static_cast<int64_t>(r)),
                   document_start ? ConstTensor(on_host(document_start)) : ConstTensor());
    seen.resize(in_it.size());
    for (size_t i = 0; i < seen.size(); ++i) seen[i] = static_cast<uint8_t>(seen[i] + in_it[i]);
  }
  return seen;
}

namespace {

// dq += (dk - k (k . dk)) / |q|, where k = q / |q|.
void add_gradient_through_keys(AttentionGradients& gradients, const std::vector<double>& q,
                               const std::vector<double>& k, int64_t D) {
  for (size_t row = 0; row < q.size(); row += static_cast<size_t>(D)) {
    double square = 0, dot = 0;
    for (size_t i = row; i < row + static_cast<size_t>(D); ++i) square += q[i] * q[i], dot += k[i] * gradients.dk[i];
    for (size_t i = row; i < row + static_cast<size_t>(D); ++i)
      gradients.dq[i] += (gradients.dk[i] - k[i] * dot) / std::sqrt(square);
  }
}

}  // namespace

void AttentionTensors::expect_formulas(double tolerance) const {
  const std::vector<double> qs = read(q), ks = read(k), vs = read(v);
  const auto factor = static_cast<double>(scale);
  const AttentionFormula want(shape(), qs, ks, vs, visible(), factor);
  EXPECT_TRUE(close(read(out), want.out, tolerance)) << "out";
  EXPECT_TRUE(close(read(lse), want.lse, tolerance)) << "lse";
  AttentionGradients wanted(shape(), qs, ks, vs, visible(), factor, read(dout));
  if (shared_qk()) add_gradient_through_keys(wanted, qs, ks, shape().D);
  // A query that sees one key has dq = 0, as a difference of terms of size one.
  constexpr double kUnit = 0.05;
  EXPECT_TRUE(close(read(dq), wanted.dq, tolerance, kUnit)) << "dq";
  if (!shared_qk()) {
    EXPECT_TRUE(close(read(dk), wanted.dk, tolerance, kUnit)) << "dk";
  }
  EXPECT_TRUE(close(read(dv), wanted.dv, tolerance)) << "dv";
}

bool AttentionTensors::bystanders_intact() const {
  if (!problem.strided_out) return true;
  const Tensor all = on_host(outputs.front());
  for (const int64_t part : {0, 2})
    for (const double x : values(all.select(part, 2)))
      if (!std::isnan(x)) return false;  // poison is NaN
  return true;
}

std::vector<double> AttentionTensors::results() const {
  std::vector<double> all;
  for (const Tensor& t : {out, lse, dq, dk, dv}) {
    if (shared_qk() && t.data == dk.data) continue;
    const std::vector<double> part = read(t);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

std::vector<Array> AttentionTensors::result_arrays() const {
  std::vector<Array> arrays;
  const auto add = [&](const Tensor& tensor) {
    const Tensor host = on_host(tensor);
    arrays.emplace_back("copy of", host);
    std::memcpy(arrays.back().view().data, host.data, static_cast<size_t>(host.bytes()));
  };
  for (const Tensor& output : outputs) add(output);
  for (const Tensor& gradient : gradients)
    if (!shared_qk() || gradient.data != dk.data) add(gradient);
  return arrays;
}

testing::AssertionResult same_results(const std::vector<Array>& a, const std::vector<Array>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << a.size() << " tensors and " << b.size();
  for (size_t i = 0; i < a.size(); ++i)
    if (!a[i].same_bits(b[i]))
      return testing::AssertionFailure() << "tensor " << i << ", " << a[i].view().describe() << ", differs";
  return testing::AssertionSuccess();
}

}  // namespace scfa::test

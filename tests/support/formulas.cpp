#include "support/formulas.h"

#include <cmath>
#include <complex>

namespace scfa::test {

std::vector<double> rotated(std::vector<double> x, int64_t T, int64_t H, int64_t D, int64_t first, double theta,
                            int direction) {
  const int64_t rows = static_cast<int64_t>(x.size()) / D;
  for (int64_t row = 0; row < rows; ++row) {
    const auto position = static_cast<double>(first + row / H % T);
    for (int64_t d = 0; d < D / 2; ++d) {
      double *a = x.data() + row * D + d, *b = a + D / 2;
      const double angle = position * std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(D));
      const std::complex<double> turned = std::complex<double>(*a, *b) * std::polar(1.0, direction * angle);
      *a = turned.real();
      *b = turned.imag();
    }
  }
  return x;
}

std::vector<double> normalised(std::vector<double> x, int64_t D) {
  for (double* row = x.data(); row < x.data() + x.size(); row += D) {
    double square = 0.0;
    for (int64_t d = 0; d < D; ++d) square += row[d] * row[d];
    for (int64_t d = 0; d < D; ++d) row[d] /= std::sqrt(square);
  }
  return x;
}

std::vector<uint8_t> visibility(std::span<const Segments> relations, std::span<const Visibility> by_head,
                                const ConstTensor& document_start) {
  const int64_t B = relations[0].q_segment.size(0), H = relations[0].q_segment.size(1),
                T = relations[0].q_segment.size(2);
  std::vector<uint8_t> seen(static_cast<size_t>(B * H * T * T), 0);
  const auto sees = [&](int64_t b, const Visibility& which, int64_t i, int64_t j) {
    return i - j >= which.nearest() && (which.window == 0 || i - j < which.window) &&
           (!document_start || j >= document_start.as<int32_t>()[b * T + i]);
  };
  for (const Segments& relation : relations) {
    const auto *q = relation.q_segment.as<uint16_t>(), *k = relation.k_segment.as<uint16_t>();
    for_each_visibility(by_head, H, [&](int64_t first, int64_t end, const Visibility& which) {
      for (int64_t b = 0; b < B; ++b)
        for (int64_t head = b * H + first; head < b * H + end; ++head)
          for (int64_t i = 0; i < T; ++i)
            for (int64_t j = 0; j < T; ++j)
              seen[static_cast<size_t>((head * T + i) * T + j)] +=
                  q[head * T + i] != 0xFFFF && q[head * T + i] == k[head * T + j] && sees(b, which, i, j);
    });
  }
  return seen;
}

namespace {

double product(const double* a, const double* b, int64_t D) {
  double total = 0.0;
  for (int64_t d = 0; d < D; ++d) total += a[d] * b[d];
  return total;
}

// Calls use(query row, keys, probabilities, lse) for every query; offsets are of rows in q, and in k and v. The
// probability of a key that is seen several times is for all of them.
template <class Use>
void for_each_query(const AttentionShape& s, const std::vector<double>& q, const std::vector<double>& k,
                    const std::vector<uint8_t>& visible, double scale, const Use& use) {
  std::vector<int64_t> keys;
  std::vector<double> p;
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t h = 0; h < s.H; ++h)
      for (int64_t i = 0; i < s.T; ++i) {
        const auto row = [&](int64_t t) { return ((b * s.T + t) * s.H + h) * s.D; };
        const int64_t heads = s.kv_heads(), key_head = h / (s.H / heads);
        const auto key_row = [&](int64_t t) { return ((b * s.T + t) * heads + key_head) * s.D; };
        const int64_t entry = (b * s.H + h) * s.T + i;
        double top = -INFINITY, total = 0.0;
        keys.clear();
        p.clear();
        for (int64_t j = 0; j < s.T; ++j) {
          const double times = visible[static_cast<size_t>(entry * s.T + j)];
          if (times == 0) continue;
          keys.push_back(key_row(j));
          p.push_back(scale * product(q.data() + row(i), k.data() + key_row(j), s.D) + std::log(times));
          top = std::max(top, p.back());
        }
        for (double& x : p) total += x = std::exp(x - top);
        for (double& x : p) x /= total;
        use(entry, row(i), keys, p, keys.empty() ? INFINITY : (top + std::log(total)) / std::log(2.0));
      }
}

}  // namespace

AttentionFormula::AttentionFormula(const AttentionShape& shape, const std::vector<double>& q,
                                   const std::vector<double>& k, const std::vector<double>& v,
                                   const std::vector<uint8_t>& visible, double scale)
    : out(q.size(), 0.0), lse(static_cast<size_t>(shape.B * shape.H * shape.T)) {
  for_each_query(
      shape, q, k, visible, scale,
      [&](int64_t entry, int64_t row, const std::vector<int64_t>& keys, const std::vector<double>& p, double log_sum) {
        lse[static_cast<size_t>(entry)] = log_sum;
        for (size_t j = 0; j < keys.size(); ++j)
          for (int64_t d = 0; d < shape.D; ++d) out.data()[row + d] += p[j] * v.data()[keys[j] + d];
      });
}

AttentionGradients::AttentionGradients(const AttentionShape& shape, const std::vector<double>& q,
                                       const std::vector<double>& k, const std::vector<double>& v,
                                       const std::vector<uint8_t>& visible, double scale,
                                       const std::vector<double>& dout)
    : dq(q.size(), 0.0), dk(k.size(), 0.0), dv(v.size(), 0.0) {
  const int64_t D = shape.D;
  std::vector<double> dp;
  for_each_query(shape, q, k, visible, scale,
                 [&](int64_t, int64_t row, const std::vector<int64_t>& keys, const std::vector<double>& p, double) {
                   const double* g = dout.data() + row;
                   dp.clear();
                   double mean = 0.0;
                   for (size_t j = 0; j < keys.size(); ++j) {
                     dp.push_back(product(g, v.data() + keys[j], D));
                     mean += p[j] * dp[j];
                   }
                   for (size_t j = 0; j < keys.size(); ++j) {
                     const double ds = scale * p[j] * (dp[j] - mean);
                     for (int64_t d = 0; d < D; ++d) {
                       dv.data()[keys[j] + d] += p[j] * g[d];
                       dq.data()[row + d] += ds * k.data()[keys[j] + d];
                       dk.data()[keys[j] + d] += ds * q.data()[row + d];
                     }
                   }
                 });
}

}  // namespace scfa::test

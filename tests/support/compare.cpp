#include "support/compare.h"

#include <algorithm>
#include <cmath>

namespace scfa::test {

testing::AssertionResult close(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                               double unit) {
  if (got.size() != want.size())
    return testing::AssertionFailure() << got.size() << " elements instead of " << want.size();
  double error = 0.0, norm = 0.0, largest = unit, worst = 0.0;
  size_t where = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i] && std::isinf(want[i])) continue;
    const double difference = std::fabs(got[i] - want[i]);
    if (!std::isfinite(difference))
      return testing::AssertionFailure() << "element " << i << " is " << got[i] << " instead of " << want[i];
    error += difference * difference;
    norm += want[i] * want[i];
    largest = std::max(largest, std::fabs(want[i]));
    if (difference > worst) worst = difference, where = i;
  }
  error = std::sqrt(error);
  norm = std::max(std::sqrt(norm), unit * std::sqrt(static_cast<double>(got.size())));
  if (error <= tolerance * norm && worst <= 10 * tolerance * largest) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "relative L2 error " << error / norm << " (at most " << tolerance
                                     << "), largest error " << worst << " at element " << where << " of " << got.size()
                                     << ": " << got[where] << " instead of " << want[where];
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  require(a.size() == b.size(), "dot: sizes ", a.size(), " and ", b.size());
  double total = 0.0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

std::vector<double> sum(const std::vector<double>& a, const std::vector<double>& b) {
  require(a.size() == b.size(), "sum: sizes ", a.size(), " and ", b.size());
  std::vector<double> total(a);
  for (size_t i = 0; i < a.size(); ++i) total[i] += b[i];
  return total;
}

testing::AssertionResult has_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    if (text.find(part) == std::string::npos)
      return testing::AssertionFailure() << '"' << text << "\" does not have \"" << part << '"';
  return testing::AssertionSuccess();
}

}  // namespace scfa::test

// Comparing what an op gave with what it should have given, and the gradients of plain formulas.
#pragma once
#include <gtest/gtest.h>
#include <omp.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "support/array.h"

namespace scfa::test {

// |got - want| <= tolerance * |want| in the Euclidean norm, and no element off by more than 10 * tolerance of the
// largest one. Infinities must be equal; NaN never is. unit: elements count as at least this large, for results that
// are what is left of larger terms; with 0, a reference of zeros must be met exactly.
testing::AssertionResult close(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                               double unit = 0.0);

inline testing::AssertionResult close(const ConstTensor& got, const std::vector<double>& want, double tolerance,
                                      double unit = 0.0) {
  return close(values(got), want, tolerance, unit);
}

// df/dx by central differences. f is a formula in double that reads x, so with h = 1e-5 the error is about
// 1e-11 * max(|f|, |f'''|): far below what f32 ops round away.
template <class F>
std::vector<double> numeric_gradient(const F& f, std::vector<double>& x, double h = 1e-5) {
  std::vector<double> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = f();
    x[i] = kept - h;
    gradient[i] = (above - f()) / (2 * h);
    x[i] = kept;
  }
  return gradient;
}

double dot(const std::vector<double>& a, const std::vector<double>& b);
std::vector<double> sum(const std::vector<double>& a, const std::vector<double>& b);

// Whether the text has all the parts; if not, shows it.
testing::AssertionResult has_parts(const std::string& text, std::initializer_list<const char*> parts);

// Whether f throws Error with a text that has all the parts: an op's checks name the op and the argument.
template <class F>
testing::AssertionResult fails_naming(const F& f, std::initializer_list<const char*> parts) {
  try {
    f();
  } catch (const Error& error) {
    return has_parts(error.what(), parts);
  } catch (const std::exception& other) {
    return testing::AssertionFailure() << "threw something else: " << other.what();
  }
  return testing::AssertionFailure() << "did not throw";
}

// Sets the number of OpenMP threads for as long as it lives.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace scfa::test

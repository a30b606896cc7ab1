// What tests of GPU code share. Included by tests that are built without CUDA too: no CUDA headers here.
#pragma once
#include <gtest/gtest.h>

#include "core/context.h"
#include "support/array.h"

namespace scfa::test {

// Skips the running test, saying why, where no GPU can be used; with SCFA_REQUIRE_GPU=1 in the environment that is a
// failure. To be called from a fixture's SetUp, so that the test's body does not run.
void skip_without_gpu();

// For tests whose parameter says which device to use.
inline void skip_without(Device device) {
  if (device == Device::kGpu) skip_without_gpu();
}

class GpuTest : public testing::Test {
 protected:
  void SetUp() override { skip_without_gpu(); }
};

// A copy of an Array on the GPU, guard bands included.
class GpuCopy {
 public:
  GpuCopy(const Context& ctx, const Array& host);
  operator Tensor() const { return view_; }       // NOLINT(google-explicit-constructor): ops take views
  operator ConstTensor() const { return view_; }  // NOLINT(google-explicit-constructor)
  void download(const Array& to) const;           // and its guard bands, which the Array checks

 private:
  const Context& ctx_;
  Buffer storage_;
  Tensor view_;
};

}  // namespace scfa::test

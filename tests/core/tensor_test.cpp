#include "core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>

#include "support/compare.h"

namespace scfa {
namespace {

struct TensorTest : testing::Test {
  TensorTest() : data(2 * 3 * 4), t(data.data(), DType::kF32, Device::kCpu, {2, 3, 4}) {
    std::iota(data.begin(), data.end(), 0.0f);
  }
  std::vector<float> data;
  Tensor t;
};

TEST_F(TensorTest, SizesAndStrides) {
  EXPECT_EQ(t.ndim, 3);
  EXPECT_EQ(t.size(0), 2);
  EXPECT_EQ(t.size(-1), 4);
  EXPECT_EQ(t.size(-3), 2);
  EXPECT_EQ(t.stride[0], 12);
  EXPECT_EQ(t.stride[1], 4);
  EXPECT_EQ(t.stride[2], 1);
  EXPECT_EQ(t.numel(), 24);
  EXPECT_EQ(t.rows(), 6);
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_TRUE(t.contiguous());
  EXPECT_TRUE(t.has_shape({2, 3, 4}));
  EXPECT_FALSE(t.has_shape({2, 3}));
  EXPECT_FALSE(t.has_shape({2, 3, 5}));
  EXPECT_EQ(t.describe(), "f32[2, 3, 4] on cpu");
  const Tensor none(data.data(), DType::kF32, Device::kCpu, {3, 0});
  EXPECT_EQ(none.rows(), 0);
  EXPECT_EQ(none.numel(), 0);
}

TEST_F(TensorTest, DimensionsThatAreNotThereAreErrors) {
  EXPECT_TRUE(test::fails_naming([&] { static_cast<void>(t.size(3)); }, {"dimension 3", "f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { static_cast<void>(t.size(-4)); }, {"dimension -4"}));
  EXPECT_TRUE(test::fails_naming([&] { static_cast<void>(Tensor().size(-1)); }, {"dimension -1"}));
  EXPECT_TRUE(test::fails_naming([&] { Tensor(data.data(), DType::kF32, Device::kCpu, {1, 1, 1, 1, 1, 1}); }, {"5"}));
}

TEST_F(TensorTest, Slice) {
  const Tensor rows = t.reshape({6, 4}).slice(2, 3);
  EXPECT_TRUE(rows.has_shape({3, 4}));
  EXPECT_EQ(rows.as<float>()[0], 8.0f);
  EXPECT_TRUE(rows.contiguous());
  EXPECT_EQ(t.slice(2, 0).numel(), 0);
  EXPECT_TRUE(test::fails_naming([&] { t.slice(1, 2); }, {"slice [1, 3)", "f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { t.slice(-1, 1); }, {"slice [-1, 0)"}));
  EXPECT_TRUE(test::fails_naming([&] { t.slice(0, -1); }, {"slice"}));
  EXPECT_TRUE(test::fails_naming([&] { Tensor().slice(0, 0); }, {"slice"}));
}

TEST_F(TensorTest, Select) {
  const Tensor plane = t.select(1);
  EXPECT_TRUE(plane.has_shape({3, 4}));
  EXPECT_EQ(plane.as<float>()[0], 12.0f);
  EXPECT_EQ(plane.stride[0], 4);
  const Tensor element = plane.select(2).select(3);
  EXPECT_EQ(element.ndim, 0);
  EXPECT_EQ(element.numel(), 1);
  EXPECT_EQ(element.as<float>()[0], 23.0f);
  EXPECT_TRUE(test::fails_naming([&] { t.select(2); }, {"entry 2 of dimension 0", "f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { t.select(-1); }, {"entry -1 of dimension 0"}));
}

TEST_F(TensorTest, SelectOfAnyDimension) {
  const Tensor middle = t.select(2, 1), last = t.select(3, -1);
  EXPECT_TRUE(middle.has_shape({2, 4}));
  EXPECT_EQ(test::values(middle), (std::vector<double>{8, 9, 10, 11, 20, 21, 22, 23}));
  EXPECT_TRUE(last.has_shape({2, 3}));
  EXPECT_EQ(test::values(last), (std::vector<double>{3, 7, 11, 15, 19, 23}));
  EXPECT_TRUE(test::fails_naming([&] { t.select(3, 1); }, {"entry 3 of dimension 1", "f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { t.select(4, -1); }, {"entry 4 of dimension 2"}));
  EXPECT_TRUE(test::fails_naming([&] { t.select(0, 3); }, {"dimension 3"}));
}

// Nothing of the dimension that went stays behind: arrays of sizes and strides are those of a new view.
TEST_F(TensorTest, SelectLeavesACleanShape) {
  for (int dimension = 0; dimension < 3; ++dimension) {
    const Tensor view = t.select(0, dimension);
    const Tensor fresh(nullptr, DType::kF32, Device::kCpu, {view.size(0), view.size(1)});
    EXPECT_TRUE(view.same_shape(fresh));
    EXPECT_EQ(view.shape, fresh.shape) << dimension;
    for (size_t d = 2; d < kMaxDims; ++d) EXPECT_EQ(view.stride[d], 0) << dimension;
  }
  const Tensor element = t.select(1).select(2).select(3);
  EXPECT_EQ(element.shape, Tensor().shape);
  EXPECT_EQ(element.stride, Tensor().stride);
}

TEST_F(TensorTest, SelectOfAStridedViewKeepsItsStrides) {
  const Tensor columns = t.transpose(1, 2);
  EXPECT_FALSE(columns.contiguous());
  const Tensor plane = columns.select(1);
  EXPECT_TRUE(plane.has_shape({4, 3}));
  EXPECT_EQ(plane.stride[0], 1);
  EXPECT_EQ(plane.stride[1], 4);
  EXPECT_EQ(plane.select(2).slice(1, 1).as<float>()[0], 12.0f + 4 + 2);
}

TEST_F(TensorTest, Transpose) {
  const Tensor columns = t.transpose(2, 0);
  EXPECT_TRUE(columns.has_shape({4, 3, 2}));
  EXPECT_EQ(columns.select(3).select(1).select(0).as<float>()[0], 7.0f);
  EXPECT_TRUE(columns.transpose(0, 2).contiguous());
  EXPECT_TRUE(test::fails_naming([&] { t.transpose(0, 3); }, {"transpose", "0 and 3", "f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { t.transpose(-1, 0); }, {"transpose"}));
}

TEST_F(TensorTest, ReshapeNeedsThePackedElements) {
  EXPECT_TRUE(t.reshape({4, 6}).has_shape({4, 6}));
  EXPECT_TRUE(test::fails_naming([&] { t.reshape({5, 5}); }, {"reshape", "f32[2, 3, 4]", "f32[5, 5]"}));
  Tensor part = t.reshape({6, 4});
  part.shape[1] = 2;
  EXPECT_FALSE(part.contiguous());
  EXPECT_TRUE(test::fails_naming([&] { part.reshape({12}); }, {"reshape", "not contiguous"}));
}

TEST_F(TensorTest, DimensionsOfOneDoNotBreakContiguity) {
  Tensor one = t.slice(0, 1);
  one.stride[0] = 999;
  EXPECT_TRUE(one.contiguous());
}

TEST_F(TensorTest, ElementsAreReadAsWhatTheyAre) {
  EXPECT_TRUE(test::fails_naming([&] { t.as<int32_t>(); }, {"f32", "i32"}));
  const ConstTensor read_only = t;
  static_assert(std::is_same_v<decltype(read_only.as<float>()), const float*>);
  EXPECT_EQ(read_only.as<float>(), t.as<float>());
  EXPECT_TRUE(read_only.has_shape({2, 3, 4}));
  EXPECT_FALSE(ConstTensor());
}

TEST_F(TensorTest, RequireTensorNamesOpArgumentRuleAndValue) {
  EXPECT_NO_THROW(require_tensor(t, "op", "x", DType::kF32, {2, 3, 4}));
  EXPECT_TRUE(test::fails_naming(
      [&] {
        require_tensor(t, "op", "x", DType::kI32, {2, 3});
      },
      {"op: x must be contiguous i32[2, 3], not f32[2, 3, 4] on cpu"}));
  EXPECT_TRUE(test::fails_naming([&] { require_tensor(Tensor(), "op", "x", DType::kF32, {1}); },
                                 {"op: x must be contiguous f32[1], not empty"}));
  Tensor strided = t;
  strided.stride[1] = 8;
  EXPECT_TRUE(test::fails_naming(
      [&] {
        require_tensor(strided, "op", "x", DType::kF32, {2, 3, 4});
      },
      {"op: x must be contiguous"}));
  EXPECT_NO_THROW(require_elements(t, "op", "x", DType::kF32, 24));
  EXPECT_TRUE(test::fails_naming([&] { require_elements(t, "op", "x", DType::kF32, 5); },
                                 {"op: x must be 5 contiguous elements of f32, not f32[2, 3, 4]"}));
  EXPECT_TRUE(test::fails_naming([&] { require_elements(Tensor(), "op", "x", DType::kF32, 1); }, {"not empty"}));
}

TEST_F(TensorTest, ViewsOfNothingHoldNothing) {
  const Tensor measured(nullptr, DType::kF32, Device::kCpu, {4, 3});  // as an arena that only measures gives
  EXPECT_FALSE(measured.slice(2, 1));
  EXPECT_FALSE(measured.select(1));
  EXPECT_TRUE(measured.select(1).has_shape({3}));
  EXPECT_EQ(Tensor().rows(), 0);
}

}  // namespace
}  // namespace scfa

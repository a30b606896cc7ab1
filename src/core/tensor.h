// Views of memory owned elsewhere: a pointer, a shape, strides, a dtype and a device. Trivially copyable; never
// allocate.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "core/error.h"

namespace scfa {

enum class Device : uint8_t { kCpu, kGpu };

constexpr const char* name_of(Device device) {
  return device == Device::kCpu ? "cpu" : "gpu";
}

constexpr int kMaxDims = 5;

// Void is void (Tensor, writable) or const void (ConstTensor). Sizes and strides count elements, outermost first.
template <class Void>
struct TensorView {
  Void* data = nullptr;
  int ndim = 0;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> stride{};

  TensorView() = default;
  TensorView(Void* pointer, DType type, Device where, std::initializer_list<int64_t> sizes)
      : data(pointer), ndim(static_cast<int>(sizes.size())), dtype(type), device(where) {
    set_shape(sizes);
  }
  // A writable view is a read-only view too.
  template <class Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>)
      TensorView(const TensorView<Other>& other)  // NOLINT(google-explicit-constructor): the point of it
      : data(other.data),
        ndim(other.ndim),
        dtype(other.dtype),
        device(other.device),
        shape(other.shape),
        stride(other.stride) {}

  explicit operator bool() const { return data != nullptr; }

  // Size of dimension i; negative i counts from the last.
  int64_t size(int i) const {
    const int d = i < 0 ? i + ndim : i;
    if (d < 0 || d >= ndim) fail("dimension ", i, " of ", describe());
    return shape[static_cast<size_t>(d)];
  }

  int64_t numel() const {
    int64_t count = 1;
    for (int i = 0; i < ndim; ++i) count *= shape[static_cast<size_t>(i)];
    return count;
  }
  // Product of all sizes but the last: N if the tensor is read as (N, C).
  int64_t rows() const { return ndim == 0 || size(-1) == 0 ? 0 : numel() / size(-1); }
  int64_t bytes() const { return numel() * static_cast<int64_t>(size_of(dtype)); }

  bool contiguous() const {
    int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      const auto d = static_cast<size_t>(i);
      if (shape[d] != 1 && stride[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }

  bool has_shape(std::initializer_list<int64_t> sizes) const {
    if (static_cast<int>(sizes.size()) != ndim) return false;
    size_t i = 0;
    for (int64_t s : sizes)
      if (shape[i++] != s) return false;
    return true;
  }

  template <class Other>
  bool same_shape(const TensorView<Other>& other) const {
    return ndim == other.ndim && std::equal(shape.begin(), shape.begin() + ndim, other.shape.begin());
  }

  template <class T>
  auto* as() const {
    require(dtype == DTypeOf<T>::value, "tensor of ", name_of(dtype), " read as ", name_of(DTypeOf<T>::value));
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(data);
  }

  // The same elements in another shape; the tensor must be contiguous.
  TensorView reshape(std::initializer_list<int64_t> sizes) const {
    require(contiguous(), "reshape of a view that is not contiguous: ", describe());
    TensorView view(data, dtype, device, sizes);
    require(view.numel() == numel(), "reshape of ", describe(), " to ", view.describe());
    return view;
  }

  // Rows [begin, begin + count) of the first dimension.
  TensorView slice(int64_t begin, int64_t count) const {
    require(ndim > 0 && begin >= 0 && count >= 0 && begin + count <= shape[0], "slice [", begin, ", ", begin + count,
            ") of ", describe());
    TensorView view = *this;
    view.data = offset(begin * stride[0]);
    view.shape[0] = count;
    return view;
  }

  // Entries [begin, begin + count) of a dimension.
  TensorView narrow(int dimension, int64_t begin, int64_t count) const {
    require(dimension >= 0 && dimension < ndim && begin >= 0 && count >= 0 &&
                begin + count <= shape[static_cast<size_t>(dimension)],
            "entries [", begin, ", ", begin + count, ") of dimension ", dimension, " of ", describe());
    TensorView view = *this;
    view.data = offset(begin * stride[static_cast<size_t>(dimension)]);
    view.shape[static_cast<size_t>(dimension)] = count;
    return view;
  }

  // Entry i of a dimension, as a view without that dimension; unused entries of shape and stride are 0.
  TensorView select(int64_t i, int dimension = 0) const {
    const int64_t entries = size(dimension);
    const int removed = dimension < 0 ? dimension + ndim : dimension;
    require(i >= 0 && i < entries, "entry ", i, " of dimension ", removed, " of ", describe());
    TensorView view = *this;
    view.data = offset(i * stride[static_cast<size_t>(removed)]);
    for (auto d = static_cast<size_t>(removed); d + 1 < static_cast<size_t>(ndim); ++d) {
      view.shape[d] = shape[d + 1];
      view.stride[d] = stride[d + 1];
    }
    --view.ndim;
    view.shape[static_cast<size_t>(view.ndim)] = view.stride[static_cast<size_t>(view.ndim)] = 0;
    return view;
  }

  // The same elements with two dimensions exchanged.
  TensorView transpose(int a, int b) const {
    require(a >= 0 && a < ndim && b >= 0 && b < ndim, "transpose of dimensions ", a, " and ", b, " of ", describe());
    TensorView view = *this;
    std::swap(view.shape[static_cast<size_t>(a)], view.shape[static_cast<size_t>(b)]);
    std::swap(view.stride[static_cast<size_t>(a)], view.stride[static_cast<size_t>(b)]);
    return view;
  }

  // Address of an element; null for a view without data (of an arena that only measures).
  Void* offset(int64_t elements) const {
    if (data == nullptr) return nullptr;
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + elements * static_cast<int64_t>(size_of(dtype));
  }

  std::string describe() const {
    std::string text = concat(name_of(dtype), "[");
    for (int i = 0; i < ndim; ++i) text += concat(i ? ", " : "", shape[static_cast<size_t>(i)]);
    return text + "] on " + name_of(device);
  }

 private:
  void set_shape(std::initializer_list<int64_t> sizes) {
    require(sizes.size() <= kMaxDims, "a tensor has at most ", kMaxDims, " dimensions");
    size_t i = 0;
    for (int64_t s : sizes) shape[i++] = s;
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; --d) {
      stride[static_cast<size_t>(d)] = step;
      step *= shape[static_cast<size_t>(d)];
    }
  }
};

using Tensor = TensorView<void>;
using ConstTensor = TensorView<const void>;

// Checks shared by the ops: each names the op and the argument.
inline void require_tensor(const ConstTensor& t, const char* op, const char* argument, DType dtype,
                           std::initializer_list<int64_t> sizes) {
  if (t.data != nullptr && t.dtype == dtype && t.has_shape(sizes) && t.contiguous()) return;
  std::string want = concat(name_of(dtype), "[");
  for (size_t i = 0; i < sizes.size(); ++i) want += concat(i ? ", " : "", sizes.begin()[i]);
  fail(op, ": ", argument, " must be contiguous ", want, "], not ", t.data == nullptr ? "empty" : t.describe());
}

// Where only the number of elements matters, as for a number a row.
inline void require_elements(const ConstTensor& t, const char* op, const char* argument, DType dtype, int64_t count) {
  if (t.data != nullptr && t.dtype == dtype && t.numel() == count && t.contiguous()) return;
  fail(op, ": ", argument, " must be ", count, " contiguous elements of ", name_of(dtype), ", not ",
       t.data == nullptr ? "empty" : t.describe());
}

}  // namespace scfa

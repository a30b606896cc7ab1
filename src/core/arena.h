// Places tensors one behind the other. Planning code runs twice over the same calls: first with an arena that only
// measures (so that the size of everything is known, by name, before a byte is taken), then with one that has memory.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"

namespace scfa {

class Arena {
 public:
  struct Item {
    std::string name;
    int64_t bytes;
  };

  // Gives the memory for one tensor, a view that has all but data.
  using Source = std::function<void*(const std::string& name, const Tensor& tensor)>;

  explicit Arena(Device device) : device_(device) {}  // measures only; take() gives views without data
  Arena(Device device, int64_t bytes) : device_(device), buffer_(static_cast<size_t>(bytes), device), real_(true) {}
  // Each tensor in memory of its own that `source` gives: for tests, which put guard bands around it.
  Arena(Device device, Source source) : device_(device), source_(std::move(source)) {}

  // A contiguous tensor, 256-byte aligned within the arena. Items of one name are added up in items().
  Tensor take(const std::string& name, DType dtype, std::initializer_list<int64_t> shape);

  void clear() { used_ = 0, items_.clear(); }  // what it gave may be given again

  Device device() const { return device_; }
  int64_t used() const { return used_; }
  const std::vector<Item>& items() const { return items_; }
  void fill(int byte);  // every byte of the arena; 0xFF poisons floats with NaN. CPU arenas only.

 private:
  Device device_;
  Buffer buffer_;
  Source source_;
  bool real_ = false;
  int64_t used_ = 0;
  std::vector<Item> items_;
};

}  // namespace scfa

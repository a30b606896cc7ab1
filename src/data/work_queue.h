// What the threads of a pipeline hand each other work with.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace scfa {

// First in, first out. pop() waits; it gives nothing once the queue is closed and empty.
template <class Item>
class WorkQueue {
 public:
  void push(Item item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    changed_.notify_one();
  }

  std::optional<Item> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    Item item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  bool closed_ = false;
};

// Bounds the bytes on their way through a pipeline.
class ByteBudget {
 public:
  explicit ByteBudget(size_t capacity) : capacity_(capacity) {}

  // Waits for room; something larger than all of it waits until it is alone. False once cancelled.
  bool acquire(size_t bytes) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return cancelled_ || used_ == 0 || used_ + bytes <= capacity_; });
    used_ += bytes;
    return !cancelled_;
  }
  void release(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      used_ -= bytes;
    }
    changed_.notify_all();
  }
  void cancel() {
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t capacity_, used_ = 0;
  bool cancelled_ = false;
};

}  // namespace scfa

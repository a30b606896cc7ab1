// Times of work on a device, and what the device can do at best.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/context.h"

namespace scfa {

double median(std::vector<double> values);
double percentile(std::vector<double> values, double share);  // share: 0.2 for the 20th; the nearest of the values

// Marks points in the work of a context; between two marks lie milliseconds. On a GPU marks are events on the stream,
// so that what is timed is the device's work and not the launching of it.
class Marks {
 public:
  Marks(Context& ctx, int count);
  ~Marks();
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;

  void set(int i);
  double between(int from, int to);  // waits for the device

 private:
  Context& ctx_;
  std::vector<Event> events_;
  std::vector<double> times_;
};

// What caches hold is overwritten, so that every timed run reads from memory. Larger than any cache of the device.
class CacheFlush {
 public:
  explicit CacheFlush(Context& ctx);
  void operator()() const;

 private:
  Context& ctx_;
  Buffer buffer_;
};

// Milliseconds of one call: the median of `repeats` after one call to warm up, each from cold caches. Throws
// Interrupted once a signal asked to stop.
double time_op(Context& ctx, const CacheFlush& flush, int repeats, const std::function<void()>& op);

struct Peaks {
  double copy;  // bytes a second, read and written, of a large copy
  double gemm;  // FLOP/s of a large GEMM in the device's type
  int64_t gemm_size;
};
Peaks measure_peaks(Context& ctx, const CacheFlush& flush);

}  // namespace scfa

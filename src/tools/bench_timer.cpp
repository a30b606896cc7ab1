#include "tools/bench_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/human.h"
#include "core/signals.h"
#include "kernels/linear/linear.h"
#include "kernels/random.h"
#include "train/machine.h"

namespace scfa {

namespace {

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A copy by all threads: one alone does not reach what the memory can do.
void copy_in_parallel(void* to, const void* from, int64_t bytes) {
  constexpr int64_t kChunk = 1 << 20;
#pragma omp parallel for schedule(static)
  for (int64_t at = 0; at < bytes; at += kChunk)
    std::memcpy(static_cast<char*>(to) + at, static_cast<const char*>(from) + at,
                static_cast<size_t>(std::min(kChunk, bytes - at)));
}

}  // namespace

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

double percentile(std::vector<double> values, double share) {
  const auto i = std::lround(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + i, values.end());
  return values[static_cast<size_t>(i)];
}

Marks::Marks(Context& ctx, int count) : ctx_(ctx), times_(static_cast<size_t>(count)) {
  if (!ctx.on_gpu()) return;
  for (int i = 0; i < count; ++i) events_.push_back(gpu::create_event(true));
}

Marks::~Marks() {
  for (Event event : events_) gpu::destroy_event(event);
}

void Marks::set(int i) {
  if (ctx_.on_gpu())
    gpu::record(events_[static_cast<size_t>(i)], ctx_.stream());
  else
    times_[static_cast<size_t>(i)] = now_ms();
}

double Marks::between(int from, int to) {
  if (!ctx_.on_gpu()) return times_[static_cast<size_t>(to)] - times_[static_cast<size_t>(from)];
  gpu::synchronize(events_[static_cast<size_t>(to)]);
  return gpu::milliseconds_between(events_[static_cast<size_t>(from)], events_[static_cast<size_t>(to)]);
}

CacheFlush::CacheFlush(Context& ctx) : ctx_(ctx), buffer_(ctx.on_gpu() ? 256u << 20 : 128u << 20, ctx.device()) {}

void CacheFlush::operator()() const {
  if (ctx_.on_gpu())
    gpu::fill(buffer_.data(), 1, buffer_.bytes(), ctx_.stream());
  else
    std::memset(buffer_.data(), 1, buffer_.bytes());
}

double time_op(Context& ctx, const CacheFlush& flush, int repeats, const std::function<void()>& op) {
  op();
  std::vector<double> times;
  Marks marks(ctx, 2);
  for (int i = 0; i < repeats; ++i) {
    check_stop("stopped; printed rows are complete");
    flush();
    marks.set(0);
    op();
    marks.set(1);
    times.push_back(marks.between(0, 1));
  }
  return median(times);
}

Peaks measure_peaks(Context& ctx, const CacheFlush& flush) {
  const bool gpu = ctx.on_gpu();
  const int64_t bytes = gpu ? int64_t{1} << 30 : int64_t{256} << 20, size = gpu ? 8192 : 1536;
  Peaks peaks{.copy = 0, .gemm = 0, .gemm_size = size};
  {
    const Buffer from(static_cast<size_t>(bytes), ctx.device()), to(static_cast<size_t>(bytes), ctx.device());
    const Tensor source(from.data(), DType::kF32, ctx.device(), {bytes / 4});
    ctx.zero(source);
    const Tensor target(to.data(), DType::kF32, ctx.device(), {bytes / 4});
    const double ms = time_op(ctx, flush, 10, [&] {
      if (gpu)
        ctx.copy(target, source);
      else
        copy_in_parallel(to.data(), from.data(), bytes);
    });
    peaks.copy = 2 * static_cast<double>(bytes) / ms * 1e3;
  }
  const DType dtype = activation_type(ctx.device());
  const auto matrix = static_cast<size_t>(size * size) * size_of(dtype);
  const Buffer a(matrix, ctx.device()), b(matrix, ctx.device()), c(matrix, ctx.device());
  const Tensor x(a.data(), dtype, ctx.device(), {size, size}), w(b.data(), dtype, ctx.device(), {size, size});
  fill_normal(ctx, x, 1, 0);  // zeros would be faster: the clock depends on the bits that flip
  fill_normal(ctx, w, 1, 1);
  const double ms = time_op(ctx, flush, 10, [&] {
    linear_forward(ctx, Tensor(c.data(), dtype, ctx.device(), {size, size}), x, w, {});
  });
  peaks.gemm = 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / ms * 1e3;
  return peaks;
}

}  // namespace scfa

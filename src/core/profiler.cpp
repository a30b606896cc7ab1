#include "core/profiler.h"

#include <atomic>
#include <utility>

#include "core/context.h"

namespace scfa {

namespace {
std::atomic<const char*> last_op{nullptr};
std::atomic<bool> last_on_gpu{false};
}  // namespace

std::string describe_last_op() {
  const char* name = last_op;
  if (name == nullptr) return "no op was started yet";
  if (!last_on_gpu) return concat("last op: ", name);
  return concat("last op launched: ", name, "; with SCFA_SYNC=1 it is the op that hangs");
}

Profiler::~Profiler() {
  for (Event event : events_) gpu::destroy_event(event);
}

Event Profiler::mark(Stream stream) {
  if (used_events_ == events_.size()) events_.push_back(gpu::create_event(true));
  Event event = events_[used_events_++];
  gpu::record(event, stream);
  return event;
}

void Profiler::add(const char* name, Category category, double seconds) {
  ProfileTime& time = times_[name];
  time.seconds += seconds;
  time.category = category;
}

ProfileTimes Profiler::take() {
  for (const Span& span : spans_) {
    gpu::synchronize(span.to);
    add(span.name, span.category, gpu::milliseconds_between(span.from, span.to) * 1e-3);
  }
  spans_.clear();
  used_events_ = 0;
  return std::exchange(times_, {});
}

// Work on another stream than the context's own runs beside it, and its time is not one of the step's.
ProfileRange::ProfileRange(Context& ctx, const char* name, Category category)
    : ctx_(ctx), name_(name), category_(category), timed_(ctx.profiler().collecting() && ctx.on_main_stream()) {
  last_op.store(name, std::memory_order_relaxed);
  last_on_gpu.store(ctx.on_gpu(), std::memory_order_relaxed);
  if (ctx_.on_gpu()) gpu::push_range(name);
  if (!timed_) return;
  if (ctx_.on_gpu())
    from_ = ctx_.profiler().mark(ctx_.stream());
  else
    began_ = Clock::now();
}

ProfileRange::~ProfileRange() {
  if (ctx_.on_gpu()) gpu::pop_range();
  if (!timed_) return;
  if (!ctx_.on_gpu()) {
    ctx_.profiler().add(name_, category_, std::chrono::duration<double>(Clock::now() - began_).count());
    return;
  }
  try {  // a device that failed reports it at the next launch
    ctx_.profiler().add_span(name_, category_, from_, ctx_.profiler().mark(ctx_.stream()));
  } catch (const std::exception&) {
  }
}

}  // namespace scfa

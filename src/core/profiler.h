// Times of named sections of work, and their names for profilers (NVTX) and watchdogs.
#pragma once
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "core/gpu.h"

namespace scfa {

class Context;

// What a time counts as in the account of a step: attention, the optimizer's ops, what ranks exchange, any other op.
enum class Category { kOther, kAttention, kOptimizer, kCommunication };

struct ProfileTime {
  double seconds = 0;
  Category category = Category::kOther;
};
using ProfileTimes = std::map<std::string, ProfileTime>;  // by name; one name is always of one category

// Adds up times by name while it is on: on the CPU by the clock; on a GPU between events, read when they are taken.
class Profiler {
 public:
  Profiler() = default;
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  void collect(bool on) { collecting_ = on; }
  bool collecting() const { return collecting_; }

  void add(const char* name, Category category, double seconds);
  // A GPU's time between two points of a stream: mark() twice, then add_span(). Names must outlive the profiler.
  Event mark(Stream stream);
  void add_span(const char* name, Category category, Event from, Event to) {
    spans_.push_back({name, category, from, to});
  }

  // What was added since the last call; waits for the device.
  ProfileTimes take();

 private:
  struct Span {
    const char* name;
    Category category;
    Event from, to;
  };
  bool collecting_ = false;
  ProfileTimes times_;
  std::vector<Span> spans_;
  std::vector<Event> events_;  // all that were made; the first used_events_ are in spans_
  size_t used_events_ = 0;
};

// "last op: NAME", of the ProfileRange opened last in any context of the program; on a GPU it has been launched, not
// ended, which the text says. Safe to call from any thread.
std::string describe_last_op();

// A stretch of work with a name, for as long as it lives: a range in profilers and, while the context collects times, a
// time of its category. Ops open one of their own name. The name must outlive the context.
class ProfileRange {
 public:
  ProfileRange(Context& ctx, const char* name, Category category = Category::kOther);
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Context& ctx_;
  const char* name_;
  Category category_;
  bool timed_;
  Event from_ = nullptr;
  Clock::time_point began_;
};

}  // namespace scfa

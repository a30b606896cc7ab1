// Times of named sections of work, and their names for profilers (NVTX) and watchdogs.
#pragma once
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "core/gpu.h"

namespace scfa {

class Context;

// Adds up times by name while it is on: on the CPU by the clock; on a GPU between events, read when they are taken.
class Profiler {
 public:
  Profiler() = default;
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  void collect(bool on) { collecting_ = on; }
  bool collecting() const { return collecting_; }

  void add(const char* name, double seconds) { times_[name] += seconds; }
  // A GPU's time between two points of a stream: mark() twice, then add_span(). Names must outlive the profiler.
  Event mark(Stream stream);
  void add_span(const char* name, Event from, Event to) { spans_.push_back({name, from, to}); }

  // Seconds by name since the last call; waits for the device.
  std::map<std::string, double> take();

 private:
  struct Span {
    const char* name;
    Event from, to;
  };
  bool collecting_ = false;
  std::map<std::string, double> times_;
  std::vector<Span> spans_;
  std::vector<Event> events_;  // all that were made; the first used_events_ are in spans_
  size_t used_events_ = 0;
};

// "last op: NAME", of the ProfileRange opened last in any context of the program; on a GPU it has been launched, not
// ended, which the text says. Safe to call from any thread.
std::string describe_last_op();

// A stretch of work with a name, for as long as it lives: a range in profilers and, while the context collects times, a
// time. Ops open one of their own name. The name must outlive the context.
class ProfileRange {
 public:
  ProfileRange(Context& ctx, const char* name);
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Context& ctx_;
  const char* name_;
  bool timed_;
  Event from_ = nullptr;
  Clock::time_point began_;
};

}  // namespace scfa

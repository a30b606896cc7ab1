// A line that tells how far prepare_data has come, how fast it is, and how long it will still take.
#pragma once
#include <chrono>
#include <string>

#include "core/terminal.h"
#include "data/prepare.h"

namespace scfa {

class ProgressMeter {
 public:
  // fd: where to. On a terminal the line is rewritten in place some times a second; elsewhere a new one comes every ten
  // seconds.
  explicit ProgressMeter(int fd);

  void update(const PrepareProgress& progress);
  // Clears the line of a terminal.
  void finish() { line_.clear(); }
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;

  int fd_;
  ProgressLine line_;
  Clock::time_point start_, shown_;
};

// The part that is done; negative if the input's size is not known.
double share_done(const PrepareProgress& progress);

// "124.1 MB/s  1.24G tokens  2:13 left"; without the last if the input's size is not known.
std::string describe_progress(const PrepareProgress& progress, double seconds);

}  // namespace scfa

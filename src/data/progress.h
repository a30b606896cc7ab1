// A line that tells how far prepare_data has come, how fast it is, and how long it will still take.
#pragma once
#include <chrono>
#include <ostream>
#include <string>

#include "data/prepare.h"

namespace scfa {

class ProgressMeter {
 public:
  // On a terminal the line is rewritten in place some times a second; elsewhere a new one comes every ten seconds.
  ProgressMeter(std::ostream& out, bool terminal);

  void update(const PrepareProgress& progress);
  // Clears the line of a terminal.
  void finish();
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;

  std::ostream& out_;
  bool terminal_;
  Clock::time_point start_, shown_;
};

// "43 %  124.1 MB/s  1.24 G tokens  2:13 left"; without the first and the last if the input's size is not known.
std::string describe_progress(const PrepareProgress& progress, double seconds);

}  // namespace scfa

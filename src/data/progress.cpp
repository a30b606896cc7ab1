#include "data/progress.h"

#include <algorithm>
#include <cstdio>

#include "core/human.h"

namespace scfa {

double share_done(const PrepareProgress& progress) {
  if (progress.total_bytes <= 0) return -1;
  return std::min(1.0, static_cast<double>(progress.read_bytes) / static_cast<double>(progress.total_bytes));
}

std::string describe_progress(const PrepareProgress& progress, double seconds) {
  const double done = share_done(progress);
  char speed[32];
  std::snprintf(speed, sizeof speed, "%.1f MB/s  ",
                static_cast<double>(progress.text_bytes) / 1e6 / std::max(seconds, 1e-9));
  std::string text = speed + format_count(static_cast<double>(progress.tokens)) + " tokens";
  if (done > 0) text += "  " + format_duration(seconds * (1 - done) / done) + " left";
  return text;
}

ProgressMeter::ProgressMeter(int fd) : fd_(fd), line_(fd), start_(Clock::now()), shown_(start_) {}

double ProgressMeter::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void ProgressMeter::update(const PrepareProgress& progress) {
  constexpr int kWide = 200;  // where no terminal says how wide it is
  const Clock::time_point now = Clock::now();
  if (now - shown_ < std::chrono::milliseconds(line_.on_terminal() ? 200 : 10'000)) return line_.redraw_if_resized();
  shown_ = now;
  const std::string text = describe_progress(progress, seconds());
  line_.draw(share_done(progress), text);
  if (!line_.on_terminal()) ::dprintf(fd_, "%s\n", progress_text(share_done(progress), text, kWide).c_str());
}

}  // namespace scfa

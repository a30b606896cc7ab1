#include "data/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/human.h"

#include "core/error.h"

namespace scfa {

namespace {

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

double fraction_done(const PrepareProgress& progress) {
  if (progress.total_bytes <= 0) return 0;
  return std::min(1.0, static_cast<double>(progress.read_bytes) / static_cast<double>(progress.total_bytes));
}

}  // namespace

std::string describe_progress(const PrepareProgress& progress, double seconds) {
  const double done = fraction_done(progress);
  std::string text = progress.total_bytes > 0 ? format("%3.0f %%  ", 100 * done) : "";
  text += format("%.1f MB/s  ", static_cast<double>(progress.text_bytes) / 1e6 / std::max(seconds, 1e-9));
  text += format_count(static_cast<double>(progress.tokens)) + " tokens";
  if (done > 0) text += "  " + format_duration(seconds * (1 - done) / done) + " left";
  return text;
}

ProgressMeter::ProgressMeter(std::ostream& out, bool terminal)
    : out_(out), terminal_(terminal), start_(Clock::now()), shown_(start_) {}

double ProgressMeter::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void ProgressMeter::update(const PrepareProgress& progress) {
  const Clock::time_point now = Clock::now();
  if (now - shown_ < std::chrono::milliseconds(terminal_ ? 200 : 10'000)) return;
  shown_ = now;
  const std::string text = describe_progress(progress, seconds());
  if (terminal_)
    out_ << '\r' << (progress.total_bytes > 0 ? format_bar(fraction_done(progress)) + " " : "") << text << "\x1b[K"
         << std::flush;
  else
    out_ << text << std::endl;
}

void ProgressMeter::finish() {
  if (terminal_) out_ << "\r\x1b[K" << std::flush;
}

}  // namespace scfa

#include "core/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/human.h"

namespace scfa {

int terminal_columns(int fd) {
  winsize size{};
  if (::isatty(fd) != 1) return 0;
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string progress_text(double share, const std::string& text, int columns) {
  constexpr int kWidestBar = 30, kNarrowestBar = 8, kFrame = 3;  // brackets and the space behind them
  const auto room = static_cast<size_t>(std::max(columns, 1));
  if (!(share >= 0)) return text.substr(0, room);
  share = std::clamp(share, 0.0, 1.0);
  const std::string percent = std::to_string(static_cast<int>(share * 100));
  std::string line = std::string(3 - std::min<size_t>(3, percent.size()), ' ') + percent + "%  " + text;
  const int left = columns - static_cast<int>(line.size()) - kFrame;
  if (left >= kNarrowestBar) line.insert(0, format_bar(share, static_cast<size_t>(std::min(left, kWidestBar))) + " ");
  line.resize(std::min(line.size(), room));
  return line;
}

ProgressLine::ProgressLine(int fd) : fd_(fd), on_terminal_(::isatty(fd) == 1) {}

ProgressLine::~ProgressLine() {
  clear();
}

void ProgressLine::write(const std::string& bytes) const {
  const char* from = bytes.data();
  size_t left = bytes.size();
  while (left > 0) {
    pollfd ready{fd_, POLLOUT, 0};
    if (::poll(&ready, 1, 0) == 0) return;  // a terminal that is stopped (Ctrl-S) must not stop the program
    const ssize_t done = ::write(fd_, from, left);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return;  // a terminal that is gone is no reason to stop
    from += done;
    left -= static_cast<size_t>(done);
  }
}

// What removes the line, which takes several rows if the terminal became narrower since.
std::string ProgressLine::erase(int columns) const {
  if (drawn_ == 0) return "\r\033[K";
  const int rows = (static_cast<int>(drawn_) - 1) / std::max(columns, 1);
  return (rows > 0 ? "\033[" + std::to_string(rows) + "A" : std::string()) + "\r\033[J";
}

void ProgressLine::draw(double share, const std::string& text) {
  if (!on_terminal_) return;
  share_ = share;
  text_ = text;
  const int columns = terminal_columns(fd_);
  // One column stays free: a terminal may wrap when the last one is written.
  const std::string line = progress_text(share, text, columns - 1);
  write(erase(columns) + line);
  drawn_ = line.size();
  columns_ = columns;
}

void ProgressLine::redraw_if_resized() {
  if (drawn_ > 0 && terminal_columns(fd_) != columns_) draw(share_, std::string(text_));
}

void ProgressLine::clear() {
  if (drawn_ == 0) return;
  write(erase(terminal_columns(fd_)));
  drawn_ = 0;
}

}  // namespace scfa

#include "train/console.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.h"
#include "core/signals.h"

namespace scfa {

Console::Console(bool silent) : silent_(silent), progress_(STDERR_FILENO) {}

// Waits for whoever reads slowly, but not for a terminal that is stopped once a signal asked to end.
void Console::write(int fd, const std::string& text) {
  const char* from = text.data();
  size_t left = text.size();
  while (left > 0) {
    pollfd ready{fd, POLLOUT, 0};
    if (::poll(&ready, 1, 100) == 0) {
      if (stop_requested()) return;
      continue;
    }
    const ssize_t done = ::write(fd, from, left);
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (done < 0) {
      if (fd != STDOUT_FILENO) return;
      if (errno == EPIPE) request_stop(SIGPIPE);
      if (error_ == 0) error_ = errno;
      return;
    }
    from += done;
    left -= static_cast<size_t>(done);
  }
}

void Console::line(const std::string& text) {
  if (silent_) return;
  const std::lock_guard lock(mutex_);
  progress_.clear();
  write(STDOUT_FILENO, text + "\n");
}

void Console::warning(const std::string& text) {
  if (silent_) return;
  const std::lock_guard lock(mutex_);
  progress_.clear();
  write(STDERR_FILENO, "warning: " + text + "\n");
}

void Console::progress(double share, const std::string& text) {
  if (silent_) return;
  const std::lock_guard lock(mutex_);
  progress_.draw(share, text);
}

void Console::redraw_if_resized() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (lock.owns_lock()) progress_.redraw_if_resized();
}

void Console::check_written() const {
  require(error_ == 0 || error_ == EPIPE, "standard output: cannot be written: ", std::strerror(error_));
}

}  // namespace scfa

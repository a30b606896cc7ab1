#include "train/console.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.h"
#include "core/output.h"
#include "core/signals.h"

namespace scfa {

Console::Console(bool silent) : silent_(silent), progress_(STDERR_FILENO) {}

void Console::write(int fd, const std::string& text) {
  const int error = write_patiently(fd, text);
  if (fd != STDOUT_FILENO || error == 0 || error == EINTR) return;
  if (error == EPIPE) request_stop(SIGPIPE);
  if (error_ == 0) error_ = error;
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

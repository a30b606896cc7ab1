// What a person watching a run sees: lines on standard output, and on a terminal a progress line below them. Safe to
// use from any thread. A pipe that nobody reads any more asks the program to stop, as SIGPIPE.
#pragma once
#include <mutex>
#include <string>

#include "core/terminal.h"

namespace scfa {

class Console {
 public:
  // silent: of a rank that is not the first, for which rank 0 speaks.
  explicit Console(bool silent = false);
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void line(const std::string& text);
  void warning(const std::string& text);                 // on standard error
  void progress(double share, const std::string& text);  // redrawn in place; nothing where there is no terminal
  // Nothing while another thread is writing.
  void redraw_if_resized();

  // Throws Error if a line did not reach standard output, but for a pipe that nobody reads any more.
  void check_written() const;

 private:
  void write(int fd, const std::string& text);

  const bool silent_;
  std::mutex mutex_;
  ProgressLine progress_;
  int error_ = 0;  // errno of the first write to standard output that failed
};

}  // namespace scfa

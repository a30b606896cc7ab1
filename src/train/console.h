// What a person watching a run sees: lines on standard output, and on a terminal a progress bar below them.
#pragma once
#include <string>

namespace scfa {

class Console {
 public:
  Console();
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void line(const std::string& text);
  void warning(const std::string& text);                 // on standard error
  void progress(double share, const std::string& text);  // redrawn in place; nothing where there is no terminal

 private:
  void clear();
  bool terminal_;
  bool drawn_ = false;
};

}  // namespace scfa

// A line at the bottom of a terminal that tells how far something has come.
#pragma once
#include <string>

namespace scfa {

int terminal_columns(int fd);  // 0 where fd is no terminal

// "[####....]  43%  text" in at most `columns` characters: first the bar gets shorter and goes, then the text is cut.
// share < 0: not known, no bar and no percentage.
std::string progress_text(double share, const std::string& text, int columns);

// Draws nothing where the descriptor is no terminal.
class ProgressLine {
 public:
  explicit ProgressLine(int fd);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool on_terminal() const { return on_terminal_; }
  void draw(double share, const std::string& text);  // in place of what was drawn before
  void redraw_if_resized();
  void clear();

 private:
  void write(const std::string& bytes) const;
  std::string erase(int columns) const;

  int fd_;
  bool on_terminal_;
  double share_ = 0;
  std::string text_;
  size_t drawn_ = 0;  // characters of the line that stands there
  int columns_ = 0;   // that the terminal had then
};

}  // namespace scfa

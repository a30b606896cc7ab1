// What a person watching a run sees: lines on standard output, and on a terminal a progress bar below them.
#pragma once
#include <cstdint>
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

std::string format_duration(double seconds);  // 4.2s, 1:23, 2:03:04, 3d 02:03
std::string format_count(double value);       // 512, 12.3k, 4.56M, 7.89G, 1.23T
std::string format_bytes(int64_t bytes);      // decimal units: 512 B, 12.3 kB, 4.56 MB

}  // namespace scfa

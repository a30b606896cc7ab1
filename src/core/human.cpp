#include "core/human.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <iterator>

namespace scfa {

std::string printed(const char* format, ...) {
  std::va_list values, again;
  va_start(values, format);
  va_copy(again, values);
  std::string text(static_cast<size_t>(std::max(std::vsnprintf(nullptr, 0, format, values), 0)), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  va_end(values);
  return text;
}

std::string format_duration(double seconds) {
  if (seconds < 9.95) return printed("%.1fs", seconds);
  const long s = std::lround(seconds);
  if (s < 3600) return printed("%ld:%02ld", s / 60, s % 60);
  if (s < 86400) return printed("%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  return printed("%ldd %02ld:%02ld", s / 86400, s / 3600 % 24, s / 60 % 60);
}

std::string format_count(double value) {
  constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P"};
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return printed("%.0f", value);
  return printed("%.*f%s", value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, kUnits[unit]);
}

std::string format_bytes(int64_t bytes) {
  const std::string count = format_count(static_cast<double>(bytes));
  const size_t digits = count.find_first_not_of("0123456789.");
  return digits == std::string::npos ? count + " B" : count.substr(0, digits) + " " + count.substr(digits) + "B";
}

std::string format_bar(double share, size_t width) {
  const auto full = static_cast<size_t>(std::lround(std::clamp(share, 0.0, 1.0) * static_cast<double>(width)));
  std::string bar = "[";  // appended to: GCC 12 warns of "[" + std::string(...)
  bar.append(full, '#').append(width - full, '.').push_back(']');
  return bar;
}

}  // namespace scfa

#include "train/console.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace scfa {

namespace {

spdlog::logger& output() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stdout_logger_mt("scfa");
    made->set_pattern("%v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::logger& errors() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_logger_mt("scfa errors");
    made->set_pattern("%l: %v");
    return made;
  }();
  return *logger;
}

}  // namespace

Console::Console() : terminal_(isatty(STDERR_FILENO) == 1) {}
Console::~Console() {
  clear();
}

void Console::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

void Console::line(const std::string& text) {
  clear();
  output().info("{}", text);
}

void Console::warning(const std::string& text) {
  clear();
  errors().warn("{}", text);
}

void Console::progress(double share, const std::string& text) {
  if (!terminal_) return;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * kWidth);
  const std::string bar =
      std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kWidth - filled), '.');
  std::fprintf(stderr, "\r\033[K[%s] %3d%%  %s", bar.c_str(), static_cast<int>(share * 100), text.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

std::string format_duration(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}d {:02}:{:02}", s / 86400, s / 3600 % 24, s / 60 % 60);
}

std::string format_count(double value) {
  constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P"};
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}{}", value, value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, kUnits[unit]);
}

std::string format_bytes(int64_t bytes) {
  std::string text = format_count(static_cast<double>(bytes));
  const bool has_unit = !text.empty() && !std::isdigit(static_cast<unsigned char>(text.back()));
  return has_unit ? text.substr(0, text.size() - 1) + " " + text.back() + "B" : text + " B";
}

}  // namespace scfa

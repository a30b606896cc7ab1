#include "train/console.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>

#include "core/human.h"

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
  std::fprintf(stderr, "\r\033[K%s %3d%%  %s", format_bar(share).c_str(), static_cast<int>(share * 100), text.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace scfa

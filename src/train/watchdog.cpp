#include "train/watchdog.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "core/context.h"
#include "core/human.h"
#include "core/output.h"
#include "core/signals.h"

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};
constexpr double kLongestTick = 0.3;  // seconds; more means that the process did not run
constexpr double kSavingFactor = 4;

}  // namespace

Watchdog::Watchdog(const Limits& limits, std::function<void()> tick, std::function<void(const std::string&)> on_end)
    : limits_(limits), tick_(std::move(tick)), on_end_(std::move(on_end)) {
  thread_ = std::thread([this] { run(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::begin(Work work, const std::string& what) {
  const std::lock_guard lock(mutex_);
  working_ = true;
  work_ = work;
  what_ = what;
  worked_ = since_stop_ = 0;
}

void Watchdog::end() {
  const std::lock_guard lock(mutex_);
  working_ = false;
}

void Watchdog::set_checkpoint(const std::string& path) {
  const std::lock_guard lock(mutex_);
  checkpoint_ = path;
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  Clock::time_point before = Clock::now();
  while (!wake_.wait_for(lock, kTick, [this] { return ending_; })) {
    const Clock::time_point now = Clock::now();
    look(std::min(std::chrono::duration<double>(now - before).count(), kLongestTick));
    before = now;
    lock.unlock();
    tick_();
    lock.lock();
  }
}

void Watchdog::look(double seconds) {
  if (!working_) return;
  worked_ += seconds;
  if (stop_requested()) since_stop_ += seconds;
  const double limit = limits_.work_seconds * (work_ == Work::kSaving ? kSavingFactor : 1);
  if (limit > 0 && worked_ > limit)
    end_program(concat(what_, " has not ended after ", format_duration(worked_), " (",
                       work_ == Work::kSaving ? "four times " : "", "train.watchdog_seconds = ", limits_.work_seconds),
                1);
  if (limits_.stop_seconds > 0 && work_ != Work::kSaving && since_stop_ > limits_.stop_seconds)
    end_program(concat(what_, " has not ended ", format_duration(since_stop_), " after signal ", stop_signal(),
                       " (train.stop_seconds = ", limits_.stop_seconds),
                128 + stop_signal());
}

// Without destructors: whatever hangs would block them too.
void Watchdog::end_program(const std::string& why, int code) const {
  const std::string text = concat(why, "; ", describe_last_op(), "); ended without saving, the last checkpoint is ",
                                  checkpoint_.empty() ? "none" : checkpoint_);
  if (on_end_) on_end_(text);
  say_at_the_end(text);
  std::_Exit(code);
}

}  // namespace scfa

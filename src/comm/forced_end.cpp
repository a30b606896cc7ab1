#include "comm/forced_end.h"

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kAbort{5};

}  // namespace

void ForcedEnd::set_abort(std::function<void()> abort) {
  const std::lock_guard lock(mutex_);
  abort_ = std::move(abort);
}

bool ForcedEnd::claim() {
  while (claimed_.exchange(true)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (called_off_) return false;
  }
  return true;
}

void ForcedEnd::end(int code) {
  run_abort();
  std::_Exit(code);
}

void ForcedEnd::run_abort() {
  std::function<void()> abort;
  {
    const std::lock_guard lock(mutex_);
    abort = abort_;
  }
  if (!abort) return;
  // In a thread of its own, because it can itself hang.
  static std::atomic<bool> aborted{false};
  std::thread([abort] {
    abort();
    aborted = true;
  }).detach();
  for (const auto begin = Clock::now(); !aborted && Clock::now() - begin < kAbort;)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

}  // namespace scfa

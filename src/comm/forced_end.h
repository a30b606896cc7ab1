// Ends this process without running destructors, which could hang too. Of several threads that want to end it, only the
// first one says why and does so.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>

namespace scfa {

class ForcedEnd {
 public:
  // Called, from any thread, before the process ends, to unblock a collective. Gets five seconds.
  void set_abort(std::function<void()> abort);

  // True if the caller must end the process. If another thread does, returns (false) only if that is called off.
  bool claim();
  void call_off() { called_off_ = true; }  // the process ends as it should

  [[noreturn]] void end(int code);

 private:
  void run_abort();

  std::mutex mutex_;  // of abort_
  std::function<void()> abort_;
  std::atomic<bool> claimed_{false}, called_off_{false};
};

}  // namespace scfa

// Ends this process without destructors, which what hangs would block too, and does so once: several threads may want
// to, and the first one says why.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>

namespace scfa {

class ForcedEnd {
 public:
  // Called, from any thread, before the process is ended: to free what waits in a collective. Waited for a few seconds.
  void set_abort(std::function<void()> abort);

  // Whether the caller is to end the process. Where another thread does, returns only if that was called off.
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

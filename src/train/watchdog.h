// Ends the program when work does not end: a step that hangs, or one that takes too long after a signal asked to stop.
// Time in which the process itself was stopped (Ctrl-Z) does not count.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace scfa {

enum class Work { kStep, kEvaluation, kSaving };

class Watchdog {
 public:
  struct Limits {
    double work_seconds = 0;  // of one piece of work, four times that for saving; 0: none
    double stop_seconds = 0;  // of a step or an evaluation batch after a signal; 0: none
  };
  // tick is called ten times a second, from the watchdog's thread. on_end gets the message before the program is ended
  // by force, and may end all ranks; if it returns, the watchdog prints the message and ends this process.
  Watchdog(const Limits& limits, std::function<void()> tick, std::function<void(const std::string&)> on_end = {});
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // A piece of work begins, "step 12"; the one before, if any, has ended.
  void begin(Work work, const std::string& what);
  void end();

  // The checkpoint that whoever ends the program by force should name.
  void set_checkpoint(const std::string& path);

 private:
  void run();
  void look(double seconds);
  [[noreturn]] void end_program(const std::string& why, int code) const;

  const Limits limits_;
  const std::function<void()> tick_;
  const std::function<void(const std::string&)> on_end_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false, working_ = false;
  Work work_ = Work::kStep;
  std::string what_, checkpoint_;
  double worked_ = 0;      // seconds
  double since_stop_ = 0;  // of these, since a signal came
  std::thread thread_;
};

// Tells a watchdog of a piece of work for as long as it lives.
class Watched {
 public:
  Watched(Watchdog& watchdog, Work work, const std::string& what) : watchdog_(watchdog) { watchdog_.begin(work, what); }
  ~Watched() { watchdog_.end(); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Watchdog& watchdog_;
};

}  // namespace scfa

// Notices within seconds that another rank of the run has died, failed or hangs, and ends this process too, so that no
// rank waits for ever in a collective that another never enters. A thread exchanges heartbeats with rank 0, which say
// where each rank is; rank 0 names the one at fault on standard error, or rank 1 where that is rank 0.
#pragma once
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "comm/forced_end.h"
#include "comm/heartbeat_channel.h"
#include "comm/peer_states.h"

namespace scfa {

class Heartbeat {
 public:
  Heartbeat(Connections* connections, double limit);  // connections must outlive it; limit: see started()
  ~Heartbeat();                                       // leaves, if that was not done
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  // Where this rank is, "step 12, all-reduce of gradients": heartbeats carry it.
  void set_place(const std::string& place);
  // Adds to it what a function finds out when a heartbeat is due, in the thread of the heartbeats; empty: nothing.
  void set_details(std::function<std::string()> details);
  // A rank that is not heard from for so long ends all; 0: never. Until this is called the limit is that of joining,
  // and a signal that asked to stop ends all too, because what waits then cannot save anything.
  void started(double seconds);
  // The checkpoint that an end by force names.
  void set_checkpoint(const std::string& path);
  // Called, from any thread, before the process is ended by force: to free what waits in a collective.
  void set_abort(std::function<void()> abort);

  // This rank ends as all others do: they are not to take it for dead. Rank 0 leaves once it has said all there is to
  // say, and the others wait for that a few seconds: a launcher may end all ranks when the first one has ended.
  void leave();

  // This rank cannot go on, because of `text`, and neither can the others: rank 0 prints it and ends all processes.
  // Where rank 0 does not answer, rank 1 prints it. hangs: the text is that of a watchdog, to which rank 0 adds what it
  // knows of the others. Returns only where another thread ends the process.
  void fail(const std::string& text, bool hangs);

  // Of ranks that have not been heard from for some seconds, or else of where ranks differ; empty if nothing is odd.
  std::string describe_others();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void beat(double seconds);
  // Ends this process without destructors, which what hangs would block too; on rank 0 all others as well. Prints the
  // text as a line first, unless it is empty. Returns only where another thread ends the process.
  void end(const std::string& text, int code = 1);
  void listen(std::chrono::milliseconds patience);
  void take(size_t rank, const BeatMessage& message);
  void gone(size_t rank);
  std::string place_here();
  std::string last_checkpoint();

  Connections& c_;
  HeartbeatChannel channel_;
  ForcedEnd forced_end_;
  std::mutex details_mutex_;  // held while details are asked for, which can block: of nothing else
  std::function<std::string()> details_;
  std::mutex mutex_;  // of what follows
  std::string place_ = "starting", checkpoint_;
  PeerStates others_;
  bool started_ = false, leaving_ = false;
  double waited_after_signal_ = 0;  // seconds
  std::thread thread_;
};

}  // namespace scfa

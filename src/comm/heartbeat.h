// Notices within seconds that another rank of the run has died, failed or hung, and ends this process too, so that no
// rank waits forever in a collective that another never enters. Heartbeats to and from rank 0 say where each rank is.
// Rank 0 prints which rank is at fault; if that is rank 0, rank 1 does.
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
  // A rank that is silent for `seconds` ends all ranks; 0: never. Before this call the limit is that of joining, and a
  // signal to stop ends all ranks too, because a rank that waits cannot save anything.
  void started(double seconds);
  // The checkpoint that an end by force names.
  void set_checkpoint(const std::string& path);
  // Called, from any thread, before the process is ended by force, to unblock a collective.
  void set_abort(std::function<void()> abort);

  // Tells the others that this rank ends normally and is not dead. Rank 0 leaves after its last output, and the others
  // wait a few seconds for that: a launcher may kill all ranks when the first one has ended.
  void leave();

  // This rank cannot go on, because of `text`, and neither can the others: rank 0 prints it and ends all processes.
  // If rank 0 does not answer, this rank prints it (of a hang, only rank 1). hangs: `text` is a watchdog's, and rank 0
  // adds what it knows of the others. Returns only if another thread ends the process.
  void fail(const std::string& text, bool hangs);

  // Of ranks that have not been heard from for some seconds, or else of where ranks differ; empty if nothing is odd.
  std::string describe_others();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void beat(double seconds);
  // Ends this process without running destructors, which could hang too; on rank 0 all others as well. Prints the text
  // as a line first, unless it is empty. Returns only if another thread ends the process.
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

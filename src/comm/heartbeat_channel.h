// What the heartbeats' threads of a run send one another, over connections of their own that never block. A message is
// a byte that says what it is, the length of its text, 4 bytes, and the text.
#pragma once
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "comm/connections.h"

namespace scfa {

enum class Beat : char {
  kAlive = 'a',    // and in this place
  kFailed = 'f',   // cannot go on, because of this; to rank 0
  kHangs = 'h',    // the same, found by a watchdog; to rank 0
  kEnd = 'e',      // all ranks end; from rank 0
  kLeaving = 'l',  // ends as it should
};

struct BeatMessage {
  Beat kind;
  std::string text;
};

class HeartbeatChannel {
 public:
  // connections must outlive it. Throws Error if the system gives no more descriptors.
  explicit HeartbeatChannel(Connections* connections);
  ~HeartbeatChannel();
  HeartbeatChannel(const HeartbeatChannel&) = delete;
  HeartbeatChannel& operator=(const HeartbeatChannel&) = delete;

  bool connected(size_t rank) const { return c_.heartbeats[rank].fd() >= 0; }

  // ---- from any thread
  // Texts of more than 64 KiB are cut. Whoever reads nothing is told nothing.
  void send(size_t rank, Beat kind, const std::string& text);
  void send_to_all(Beat kind, const std::string& text);  // with whom this rank is connected
  void wake();                                           // ends wait(), now or when it is called next

  // ---- from one thread
  // Until one of `ranks` has sent something, or for so long; those that have.
  std::vector<size_t> wait(const std::vector<size_t>& ranks, std::chrono::milliseconds patience) const;
  // What a rank has sent whole, in order, is appended. False if nothing can come from it any more.
  bool receive(size_t rank, std::vector<BeatMessage>* messages);

 private:
  Connections& c_;
  std::vector<std::string> received_;  // by rank; not taken apart yet
  std::mutex sending_;
  int wake_[2] = {-1, -1};  // a pipe
};

}  // namespace scfa

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
  // connections must outlive it. Throws Error if no pipe can be created.
  explicit HeartbeatChannel(Connections* connections);
  ~HeartbeatChannel();
  HeartbeatChannel(const HeartbeatChannel&) = delete;
  HeartbeatChannel& operator=(const HeartbeatChannel&) = delete;

  bool connected(size_t rank) const { return c_.heartbeats[rank].fd() >= 0; }

  // ---- from any thread
  // Texts over 64 KiB are truncated. If the socket buffer is full, the message is dropped.
  void send(size_t rank, Beat kind, const std::string& text);
  void send_to_all(Beat kind, const std::string& text);  // to all connected ranks
  void wake();                                           // ends wait(), now or when it is called next

  // ---- from one thread
  // Waits up to `patience` until one of `ranks` has sent something; returns those that have.
  std::vector<size_t> wait(const std::vector<size_t>& ranks, std::chrono::milliseconds patience) const;
  // Appends the complete messages of a rank, in order. False if its connection is closed or corrupt.
  bool receive(size_t rank, std::vector<BeatMessage>* messages);

 private:
  Connections& c_;
  std::vector<std::string> received_;  // by rank; not parsed yet
  std::mutex sending_;
  int wake_[2] = {-1, -1};  // a pipe
};

}  // namespace scfa

// What heartbeats are made of, without a thread: messages over a pair of sockets, and what a rank knows of the others.
#include "comm/heartbeat.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace scfa {
namespace {

// Two ranks that are connected; rank 0's side is a, rank 1's b.
struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    a.size = b.size = 2;
    b.rank = 1;
    a.peers = b.peers = {{"here", "here"}, {"there", "there"}};
    a.heartbeats.resize(2);
    a.heartbeats[1] = Socket(fds[0]);
    b.heartbeats.emplace_back(fds[1]);
  }
  Connections a, b;
};

constexpr std::chrono::milliseconds kAtOnce{0}, kLong{5000};

TEST(HeartbeatChannel, MessagesComeWholeAndInOrder) {
  Pair pair;
  HeartbeatChannel first(&pair.a), second(&pair.b);
  EXPECT_FALSE(first.connected(0));
  EXPECT_TRUE(first.connected(1));
  EXPECT_TRUE(first.wait({1}, kAtOnce).empty());
  const std::string place(5000, 'x');  // more than is read at once
  second.send_to_all(Beat::kAlive, place);
  second.send(0, Beat::kLeaving, "");
  std::vector<BeatMessage> messages;
  while (messages.size() < 2) {
    ASSERT_EQ(first.wait({1}, kLong), std::vector<size_t>{1});
    ASSERT_TRUE(first.receive(1, &messages));
  }
  EXPECT_EQ(messages[0].kind, Beat::kAlive);
  EXPECT_EQ(messages[0].text, place);
  EXPECT_EQ(messages[1].kind, Beat::kLeaving);
  EXPECT_EQ(messages[1].text, "");
  EXPECT_TRUE(first.receive(1, &messages)) << "nothing to read is no end";
  EXPECT_EQ(messages.size(), 2u);
}

TEST(HeartbeatChannel, ABrokenConnectionAndNonsenseEndIt) {
  std::vector<BeatMessage> messages;
  {
    Pair pair;
    HeartbeatChannel first(&pair.a);
    pair.b.heartbeats.clear();
    EXPECT_FALSE(first.receive(1, &messages));
  }
  Pair pair;
  HeartbeatChannel first(&pair.a);
  ASSERT_TRUE(pair.b.heartbeats[0].write_all("HTTP/1.1 200", 12));
  EXPECT_FALSE(first.receive(1, &messages));
  EXPECT_TRUE(messages.empty());
}

TEST(HeartbeatChannel, ARankThatReadsNothingBlocksNobody) {
  Pair pair;
  HeartbeatChannel first(&pair.a);
  for (int i = 0; i < 1000; ++i) first.send(1, Beat::kAlive, std::string(10000, 'x'));
}

TEST(HeartbeatChannel, WakeEndsTheWait) {
  Pair pair;
  HeartbeatChannel first(&pair.a);
  first.wake();
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(first.wait({1}, kLong).empty());
  EXPECT_LT(std::chrono::steady_clock::now() - began, kLong);
}

Connections rank_of(int rank, int size) {
  Connections c;
  c.rank = rank, c.size = size;
  for (int r = 0; r < size; ++r) c.peers.push_back({"host", "host"});
  return c;
}

TEST(PeerStates, ARankThatIsSilentForTooLongIsNamed) {
  const Connections c = rank_of(0, 3);
  PeerStates states(c, 10);
  states.set_place(2, "step 5");
  EXPECT_EQ(states.pass(11), "");  // a watchdog comes first
  states.heard_from(1);
  EXPECT_EQ(states.pass(2), "rank 2 on host has not been heard from for 13 s, last seen in step 5");
  EXPECT_EQ(states.silent(1), 2);
  states.left(2);
  EXPECT_EQ(states.pass(2), "");
  states.set_limit(0);
  EXPECT_EQ(states.pass(1e6), "");
}

TEST(PeerStates, OtherRanksHearFromRankZeroAloneAndWaitLonger) {
  const Connections c = rank_of(2, 3);
  PeerStates states(c, 10);
  EXPECT_EQ(states.pass(16), "");
  EXPECT_EQ(states.silent(1), 0);
  EXPECT_EQ(states.pass(2), "rank 0 on host has not been heard from for 18 s, last seen in ");
}

TEST(PeerStates, SilentRanksAreOddOrElseThoseThatAreElsewhere) {
  const Connections c = rank_of(0, 4);
  PeerStates states(c, 100);
  for (size_t r = 0; r < 4; ++r) states.set_place(r, "step 5");
  EXPECT_EQ(states.describe_odd(), "");
  states.set_place(3, "step 6");
  EXPECT_EQ(states.describe_odd(), "rank 0 on host and 2 more are in step 5; rank 3 on host is in step 6");
  states.pass(4);
  states.heard_from(1), states.heard_from(3);
  EXPECT_EQ(states.describe_odd(), "rank 2 on host has not been heard from for 4 s (last seen in step 5)");
}

}  // namespace
}  // namespace scfa

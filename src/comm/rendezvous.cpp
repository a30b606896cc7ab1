#include "comm/rendezvous.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <random>
#include <sstream>

#include "comm/mpi.h"
#include "core/error.h"
#include "core/signals.h"

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kHandshake = "scfa-1";
constexpr size_t kLongestHandshake = 4096;

Peer this_peer() {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return {host, std::string(host) + "/" + boot};
}

// "greeting job size rank channel host machine", of words without blanks.
std::string handshake(const std::string& job, const Connections& c, int channel, const Peer& peer) {
  return concat(kHandshake, ' ', job, ' ', c.size, ' ', c.rank, ' ', channel, ' ', peer.host, ' ', peer.machine);
}

std::string missing_ranks(const Connections& c) {
  std::string missing;
  int count = 0;
  for (int r = 1; r < c.size; ++r) {
    const auto at = static_cast<size_t>(r);
    if (c.messages[at].fd() >= 0 && c.heartbeats[at].fd() >= 0) continue;
    if (++count <= 8) missing += (count > 1 ? ", " : "") + std::to_string(r);
  }
  return count == 0 ? "" : concat("rank", count > 1 ? "s " : " ", missing, count > 8 ? ", ..." : "");
}

// Takes a connection if it is one of this run; others that come to the port are closed.
void accept_rank(Connections& c, const std::string& job, Socket socket) {
  socket.limit_reading(5);
  std::string text, word, its_job;
  if (!socket.read_message(&text, kLongestHandshake)) return;
  std::istringstream words(text);
  int size = 0, rank = 0, channel = 0;
  Peer peer;
  if (!(words >> word >> its_job >> size >> rank >> channel >> peer.host >> peer.machine)) return;
  if (word != kHandshake || its_job != job || size != c.size || rank < 1 || rank >= c.size) return;
  socket.limit_reading(0);
  const auto at = static_cast<size_t>(rank);
  c.peers[at] = peer;
  (channel == 0 ? c.messages : c.heartbeats)[at] = std::move(socket);
}

void wait_for_ranks(Connections& c, const Listener& listener, const std::string& job, double seconds) {
  c.messages.resize(c.peers.size());
  c.heartbeats.resize(c.peers.size());
  const auto begin = Clock::now();
  while (!missing_ranks(c).empty()) {
    check_stop("stopped while waiting for ", missing_ranks(c));
    const std::chrono::duration<double> waited = Clock::now() - begin;
    require(waited.count() < seconds, missing_ranks(c), " of ", c.size, " did not connect within ", seconds,
            " s; was every process started with the same command?");
    if (std::optional<Socket> socket = listener.accept(0.1)) accept_rank(c, job, *std::move(socket));
  }
  std::string table;
  for (const Peer& peer : c.peers) table += peer.host + " " + peer.machine + "\n";
  for (size_t r = 1; r < c.peers.size(); ++r) require(c.messages[r].write_message(table), c.name_of(r), " is gone");
}

void connect_to_rank0(Connections& c, const std::vector<std::string>& addresses, int port, const std::string& job,
                      double seconds) {
  const Peer self = this_peer();
  std::string error, table;
  for (const auto begin = Clock::now();;) {
    for (const std::string& address : addresses) {
      std::optional<Socket> messages = connect_to(address, port, 0, &error);
      std::optional<Socket> heartbeats = messages ? connect_to(address, port, 0, &error) : std::nullopt;
      const std::chrono::duration<double> passed = Clock::now() - begin;
      if (messages) messages->limit_reading(std::max(1.0, seconds - passed.count()));
      if (!heartbeats || !messages->write_message(handshake(job, c, 0, self)) ||
          !heartbeats->write_message(handshake(job, c, 1, self)) || !messages->read_message(&table)) {
        if (heartbeats) error = "no answer: rank 0 has ended, or another program listens there";
        continue;
      }
      messages->limit_reading(0);
      c.messages.push_back(*std::move(messages));
      c.heartbeats.push_back(*std::move(heartbeats));
      std::istringstream lines(table);
      for (Peer& peer : c.peers) lines >> peer.host >> peer.machine;
      return;
    }
    check_stop("stopped while looking for rank 0");
    const std::chrono::duration<double> waited = Clock::now() - begin;
    require(waited.count() < seconds, c.name_of(static_cast<size_t>(c.rank)), " cannot reach rank 0 at ",
            addresses.front(), ":", port, ": ", error);
    ::usleep(50000);
  }
}

// Where rank 0 listens, for ranks that only MPI connects so far: "port job machine address ...".
std::string address_of_rank0(const Listener& listener, const std::string& job) {
  std::string text = concat(listener.port(), ' ', job, ' ', this_peer().machine);
  for (const std::string& address : own_addresses()) text += " " + address;
  return text;
}

}  // namespace

Connections rendezvous(const Launch& launch, double seconds) {
  Connections c;
  c.rank = launch.rank, c.size = launch.size;
  const bool by_mpi = launch.launcher == Launcher::kMpirun;
  c.peers.assign(static_cast<size_t>(c.size), this_peer());
  if (c.size == 1) return c;
  std::string job = launch.job.empty() ? "-" : launch.job;
  if (c.rank == 0) {
    const Listener listener(launch.port);
    if (by_mpi) {
      std::random_device random;
      job = concat(std::hex, random(), random());
      mpi::broadcast(address_of_rank0(listener, job));
    }
    wait_for_ranks(c, listener, job, seconds);
    return c;
  }
  std::vector<std::string> addresses{launch.address};
  int port = launch.port;
  if (by_mpi) {
    std::istringstream place(mpi::broadcast({}));
    std::string machine;
    place >> port >> job >> machine;
    addresses.clear();
    for (std::string address; place >> address;) addresses.push_back(address);
    if (machine == this_peer().machine) std::reverse(addresses.begin(), addresses.end());  // loopback first
  }
  connect_to_rank0(c, addresses, port, job, seconds);
  return c;
}

}  // namespace scfa

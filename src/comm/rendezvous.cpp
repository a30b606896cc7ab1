#include "comm/rendezvous.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
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
    require(waited.count() < seconds, missing_ranks(c), " of ", c.size, " did not come within ", seconds,
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

std::string Connections::name_of(size_t r) const {
  return concat("rank ", r, " on ", peers.at(r).host);
}

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

// ---- messages -------------------------------------------------------------------------------------------------------

namespace {

[[noreturn]] void fail_gone(const Connections& c, size_t rank) {
  fail("the connection to ", c.name_of(rank), " is gone");
}

std::string packed(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) {
    const uint64_t size = text.size();
    all.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
  }
  return all;
}

std::vector<std::string> unpacked(const std::string& all) {
  std::vector<std::string> texts;
  for (size_t at = 0; at + sizeof(uint64_t) <= all.size();) {
    uint64_t size = 0;
    std::memcpy(&size, all.data() + at, sizeof size);
    texts.push_back(all.substr(at + sizeof size, size));
    at += sizeof size + size;
  }
  return texts;
}

}  // namespace

std::vector<std::string> Messages::all_gather(const char* what, const std::string& mine) {
  if (c_.size == 1) return {mine};
  const std::string tag = concat(count_++, ' ', what);
  if (c_.rank == 0) return gather_and_answer(tag, mine);
  std::string answer;
  if (!c_.messages[0].write_message(tag) || !c_.messages[0].write_message(mine) ||
      !c_.messages[0].read_message(&answer))
    fail_gone(c_, 0);
  return unpacked(answer);
}

std::vector<std::string> Messages::gather_and_answer(const std::string& tag, const std::string& mine) {
  std::vector<std::string> texts(c_.peers.size());
  texts[0] = mine;
  for (size_t r = 1; r < texts.size(); ++r) {
    std::string its;
    if (!c_.messages[r].read_message(&its) || !c_.messages[r].read_message(&texts[r])) fail_gone(c_, r);
    require(its == tag, c_.name_of(r), " is out of step with rank 0: in exchange ", its, " instead of ", tag);
  }
  const std::string all = packed(texts);
  for (size_t r = 1; r < texts.size(); ++r)
    if (!c_.messages[r].write_message(all)) fail_gone(c_, r);
  return texts;
}

// ---- data of CPU ranks ----------------------------------------------------------------------------------------------

namespace {

class Relay : public HostTransport {
 public:
  explicit Relay(Connections* connections) : c_(*connections) {}

  void all_to_all(const char* send, const std::vector<int64_t>& to, char* receive,
                  const std::vector<int64_t>& from) override {
    const auto length = [](const std::vector<int64_t>& limits, size_t r) {
      return static_cast<size_t>(limits[r + 1] - limits[r]);
    };
    if (c_.rank != 0) {
      const Socket& first = c_.messages[0];
      if (!first.write_all(to.data(), to.size() * sizeof(int64_t)) ||
          !first.write_all(send, static_cast<size_t>(to.back())) ||
          !first.read_all(receive, static_cast<size_t>(from.back())))
        fail_gone(c_, 0);
      return;
    }
    const size_t size = c_.peers.size();
    std::vector<std::vector<int64_t>> limits(size, to);
    data_.resize(size);
    for (size_t r = 1; r < size; ++r) {
      if (!c_.messages[r].read_all(limits[r].data(), to.size() * sizeof(int64_t))) fail_gone(c_, r);
      data_[r].resize(static_cast<size_t>(limits[r].back()));
      if (!c_.messages[r].read_all(data_[r].data(), data_[r].size())) fail_gone(c_, r);
    }
    const auto data_of = [&](size_t r) { return r == 0 ? send : data_[r].data(); };
    for (size_t r = 0; r < size; ++r)  // rank 0's part may be empty, and so may be `receive`
      std::copy_n(data_of(r) + limits[r][0], length(limits[r], 0), receive + from[r]);
    for (size_t to_rank = 1; to_rank < size; ++to_rank)
      for (size_t r = 0; r < size; ++r)
        if (!c_.messages[to_rank].write_all(data_of(r) + limits[r][to_rank], length(limits[r], to_rank)))
          fail_gone(c_, to_rank);
  }

  void all_gather(char* data, const std::vector<int64_t>& parts) override {
    const auto size_of_part = [&](size_t r) { return static_cast<size_t>(parts[r + 1] - parts[r]); };
    if (c_.rank != 0) {
      const auto self = static_cast<size_t>(c_.rank);
      if (!c_.messages[0].write_all(data + parts[self], size_of_part(self)) ||
          !c_.messages[0].read_all(data, static_cast<size_t>(parts.back())))
        fail_gone(c_, 0);
      return;
    }
    for (size_t r = 1; r < c_.peers.size(); ++r)
      if (!c_.messages[r].read_all(data + parts[r], size_of_part(r))) fail_gone(c_, r);
    for (size_t r = 1; r < c_.peers.size(); ++r)
      if (!c_.messages[r].write_all(data, static_cast<size_t>(parts.back()))) fail_gone(c_, r);
  }

 private:
  Connections& c_;
  std::vector<std::vector<char>> data_;
};

}  // namespace

std::unique_ptr<HostTransport> make_relay(Connections* connections) {
  return std::make_unique<Relay>(connections);
}

}  // namespace scfa

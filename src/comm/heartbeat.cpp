#include "comm/heartbeat.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/output.h"
#include "core/signals.h"

namespace scfa {

namespace {

constexpr std::chrono::milliseconds kBeat{250};
constexpr double kSilent =
    3;  // seconds without a heartbeat after which a rank is named; half the limit if that is less
constexpr std::chrono::seconds kAnswer{3}, kAbort{5};
constexpr size_t kLongestText = 1 << 16;

// What a message is: its first byte; then the length of its text, 4 bytes, and the text.
constexpr char kAlive = 'a', kFailed = 'f', kHangs = 'h', kEnd = 'e', kLeaving = 'l';

}  // namespace

Heartbeat::Heartbeat(Connections* connections, double limit)
    : c_(*connections), limit_(limit), others_(c_.peers.size()) {
  for (const Socket& socket : c_.heartbeats) {
    if (socket.fd() < 0) continue;
    ::fcntl(socket.fd(), F_SETFL, ::fcntl(socket.fd(), F_GETFL) | O_NONBLOCK);
  }
  const bool made = ::pipe2(wake_, O_CLOEXEC) == 0;
  require(made, "heartbeats: the system gives no more descriptors");
  thread_ = std::thread([this] { run(); });
}

Heartbeat::~Heartbeat() {
  leave();
  thread_.join();
  for (const int fd : wake_) ::close(fd);
}

void Heartbeat::set_place(const std::string& place) {
  const std::lock_guard lock(mutex_);
  place_ = place;
}

void Heartbeat::started(double seconds) {
  const std::lock_guard lock(mutex_);
  limit_ = seconds;
  started_ = true;
}

void Heartbeat::set_details(std::function<std::string()> details) {
  const std::lock_guard lock(details_mutex_);
  details_ = std::move(details);
}

void Heartbeat::set_checkpoint(const std::string& path) {
  const std::lock_guard lock(mutex_);
  checkpoint_ = path;
}

void Heartbeat::set_abort(std::function<void()> abort) {
  const std::lock_guard lock(mutex_);
  abort_ = std::move(abort);
}

std::string Heartbeat::place_here() {
  std::string details;
  {
    const std::lock_guard lock(details_mutex_);
    if (details_) details = details_();
  }
  const std::lock_guard lock(mutex_);
  return details.empty() ? place_ : place_ + ", " + details;
}

std::string Heartbeat::last_checkpoint() {
  const std::lock_guard lock(mutex_);
  return checkpoint_.empty() ? "none" : checkpoint_;
}

void Heartbeat::leave() {
  for (const auto begin = Clock::now(); c_.rank != 0 && Clock::now() - begin < kAnswer;) {
    {
      const std::lock_guard lock(mutex_);
      if (others_[0].left || leaving_) break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  {
    const std::lock_guard lock(mutex_);
    if (leaving_) return;
    leaving_ = true;
  }
  for (size_t r = 0; r < c_.heartbeats.size(); ++r)
    if (c_.heartbeats[r].fd() >= 0) send(r, kLeaving, "");
  for (const Socket& socket : c_.messages)  // who still waits for a message of this rank learns that none comes
    if (socket.fd() >= 0) ::shutdown(socket.fd(), SHUT_WR);
  [[maybe_unused]] const ssize_t written = ::write(wake_[1], "", 1);
}

// ---- the thread -----------------------------------------------------------------------------------------------------

void Heartbeat::run() {
  Clock::time_point next = Clock::now(), before = next;
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (leaving_) return;
    }
    if (Clock::now() >= next) {
      // Time in which the process was stopped does not count, as it does not for the watchdog.
      const std::chrono::duration<double> passed = Clock::now() - before;
      before = Clock::now();
      beat(std::min(passed.count(), 0.5));
      next = before + kBeat;
    }
    listen(std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()));
  }
}

void Heartbeat::beat(double seconds) {
  const std::string place = place_here();
  std::string reason;
  int code = 1;
  {
    const std::lock_guard lock(mutex_);
    others_[static_cast<size_t>(c_.rank)].place = place;
    for (size_t r = 0; r < others_.size(); ++r) {
      State& other = others_[r];
      const bool heard_of = c_.rank == 0 ? r > 0 : r == 0;
      if (!heard_of || other.left) continue;
      other.silent += seconds;
      // A little later than a watchdog, which says more; and rank 0 before the others.
      if (limit_ > 0 && other.silent > limit_ + (c_.rank == 0 ? 2 : 7))
        reason = concat(c_.name_of(r), " has not been heard from for ", static_cast<int64_t>(other.silent),
                        " s, last seen in ", other.place);
    }
    if (reason.empty() && !started_ && stop_requested() && (waited_after_signal_ += seconds) > 3) {
      reason = concat("ended by signal ", stop_signal(), " in ", place);
      code = 128 + stop_signal();
    }
  }
  for (size_t r = 0; r < c_.heartbeats.size(); ++r)
    if (c_.heartbeats[r].fd() >= 0) send(r, kAlive, place);
  if (reason.empty()) return;
  const std::string text = reason + "; all ranks end, the last checkpoint is " + last_checkpoint();
  end(c_.rank > 1 ? "" : text, code);
}

void Heartbeat::listen(std::chrono::milliseconds patience) {
  std::vector<pollfd> ready{{wake_[0], POLLIN, 0}};
  std::vector<size_t> ranks{0};
  for (size_t r = 0; r < c_.heartbeats.size(); ++r) {
    const std::lock_guard lock(mutex_);
    if (c_.heartbeats[r].fd() < 0 || others_[r].left) continue;
    ready.push_back({c_.heartbeats[r].fd(), POLLIN, 0});
    ranks.push_back(r);
  }
  const int timeout = static_cast<int>(std::max<int64_t>(patience.count(), 0));
  if (::poll(ready.data(), ready.size(), timeout) <= 0) return;
  for (size_t i = 1; i < ready.size(); ++i)
    if (ready[i].revents != 0) receive(ranks[i]);
}

void Heartbeat::receive(size_t rank) {
  char bytes[4096];
  const ssize_t count = ::recv(c_.heartbeats[rank].fd(), bytes, sizeof bytes, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return gone(rank);
  State& state = others_[rank];  // received is this thread's alone
  state.received.append(bytes, static_cast<size_t>(count));
  constexpr size_t kHead = 1 + sizeof(uint32_t);
  while (state.received.size() >= kHead) {
    uint32_t size = 0;
    std::memcpy(&size, state.received.data() + 1, sizeof size);
    if (size > kLongestText) return gone(rank);
    if (state.received.size() < kHead + size) return;
    const std::string message = state.received.substr(0, kHead + size);
    state.received.erase(0, kHead + size);
    take(rank, message[0], message.substr(kHead));
  }
}

void Heartbeat::take(size_t rank, char kind, const std::string& text) {
  if (kind == kEnd) return end({});
  if (kind == kFailed && c_.rank == 0) return end(text);
  if (kind == kHangs && c_.rank == 0) {
    const std::string others = describe_others();
    return end(others.empty() ? text : text + "; " + others);
  }
  const std::lock_guard lock(mutex_);
  others_[rank].silent = 0;
  if (kind == kAlive) others_[rank].place = text;
  if (kind == kLeaving) others_[rank].left = true;
}

void Heartbeat::gone(size_t rank) {
  std::string place;
  {
    const std::lock_guard lock(mutex_);
    if (others_[rank].left || leaving_) {
      others_[rank].left = true;
      return;
    }
    place = others_[rank].place;
  }
  const std::string text = concat(c_.name_of(rank), " exited unexpectedly (killed?), last seen in ", place,
                                  "; all ranks end, the last checkpoint is ", last_checkpoint());
  if (c_.rank > 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  end(c_.rank > 1 ? "" : text);
}

// ---- the end --------------------------------------------------------------------------------------------------------

void Heartbeat::send(size_t rank, char kind, const std::string& text) {
  const auto size = static_cast<uint32_t>(std::min(text.size(), kLongestText));
  std::string message(1, kind);
  message.append(reinterpret_cast<const char*>(&size), sizeof size).append(text, 0, size);
  const std::lock_guard lock(sending_);
  const int fd = c_.heartbeats[rank].fd();
  // A rank that is stopped reads nothing: where its buffer is full there is nobody to tell. Half a message would make
  // the next one unreadable.
  const ssize_t sent = ::send(fd, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0 && sent < static_cast<ssize_t>(message.size())) ::shutdown(fd, SHUT_WR);
}

// Several threads may want to end the process: the first one says why, and where rank 0's main thread does nobody else.
bool Heartbeat::claim_end() {
  while (ending_.exchange(true)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::lock_guard lock(mutex_);
    if (leaving_) return false;
  }
  return true;
}

void Heartbeat::end(const std::string& text, int code) {
  if (!claim_end()) return;
  if (!text.empty()) say_at_the_end(text);
  if (c_.rank == 0)
    for (size_t r = 1; r < c_.heartbeats.size(); ++r) send(r, kEnd, "");
  run_abort();
  std::_Exit(code);
}

void Heartbeat::run_abort() {
  std::function<void()> abort;
  {
    const std::lock_guard lock(mutex_);
    abort = abort_;
  }
  if (!abort) return;
  // In a thread of its own, because it can itself hang.
  static std::atomic<bool> aborted{false};
  std::thread([abort] {
    abort();
    aborted = true;
  }).detach();
  for (const auto begin = Clock::now(); !aborted && Clock::now() - begin < kAbort;)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

void Heartbeat::fail(const std::string& text, bool hangs) {
  const std::string others = hangs ? describe_others() : "";
  const std::string line = others.empty() ? text : text + "; " + others;
  if (c_.rank == 0) return end(line);
  double silent = 0;
  {
    const std::lock_guard lock(mutex_);
    silent = others_[0].silent;
  }
  send(0, hangs ? kHangs : kFailed, text);
  if (silent < kSilent) std::this_thread::sleep_for(kAnswer);
  end(c_.rank == 1 || !hangs ? line : "");
}

std::string Heartbeat::describe_others() {
  const std::lock_guard lock(mutex_);
  std::string silent;
  std::map<std::string, std::vector<size_t>> places;
  for (size_t r = 0; r < others_.size(); ++r) {
    if (c_.rank != 0 && r != 0) continue;  // only rank 0 hears from all
    places[others_[r].place].push_back(r);
    if (others_[r].silent > std::min(kSilent, limit_ > 0 ? limit_ / 2 : kSilent))
      silent += concat(silent.empty() ? "" : ", ", c_.name_of(r), " has not been heard from for ",
                       static_cast<int64_t>(others_[r].silent), " s (last seen in ", others_[r].place, ")");
  }
  if (!silent.empty() || places.size() < 2) return silent;
  std::string differing;
  for (const auto& [place, ranks] : places)
    differing += concat(differing.empty() ? "" : "; ", c_.name_of(ranks.front()),
                        ranks.size() > 1 ? concat(" and ", ranks.size() - 1, " more are in ") : " is in ", place);
  return differing;
}

}  // namespace scfa

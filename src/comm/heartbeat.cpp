#include "comm/heartbeat.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/output.h"
#include "core/signals.h"

namespace scfa {

namespace {

constexpr std::chrono::milliseconds kBeat{250};
constexpr std::chrono::seconds kAnswer{3};

}  // namespace

Heartbeat::Heartbeat(Connections* connections, double limit)
    : c_(*connections), channel_(connections), others_(c_, limit) {
  thread_ = std::thread([this] { run(); });
}

Heartbeat::~Heartbeat() {
  leave();
  thread_.join();
}

void Heartbeat::set_place(const std::string& place) {
  const std::lock_guard lock(mutex_);
  place_ = place;
}

void Heartbeat::started(double seconds) {
  const std::lock_guard lock(mutex_);
  others_.set_limit(seconds);
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
  forced_end_.set_abort(std::move(abort));
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
      if (others_.has_left(0) || leaving_) break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  {
    const std::lock_guard lock(mutex_);
    if (leaving_) return;
    leaving_ = true;
  }
  forced_end_.call_off();
  channel_.send_to_all(Beat::kLeaving, "");
  for (const Socket& socket : c_.messages)  // who still waits for a message of this rank learns that none comes
    if (socket.fd() >= 0) ::shutdown(socket.fd(), SHUT_WR);
  channel_.wake();
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
    others_.set_place(static_cast<size_t>(c_.rank), place);
    reason = others_.pass(seconds);
    if (reason.empty() && !started_ && stop_requested() && (waited_after_signal_ += seconds) > 3) {
      reason = concat("ended by signal ", stop_signal(), " in ", place);
      code = 128 + stop_signal();
    }
  }
  channel_.send_to_all(Beat::kAlive, place);
  if (reason.empty()) return;
  const std::string text = reason + "; all ranks end, the last checkpoint is " + last_checkpoint();
  end(c_.rank > 1 ? "" : text, code);
}

void Heartbeat::listen(std::chrono::milliseconds patience) {
  std::vector<size_t> ranks;
  {
    const std::lock_guard lock(mutex_);
    for (size_t r = 0; r < c_.heartbeats.size(); ++r)
      if (channel_.connected(r) && !others_.has_left(r)) ranks.push_back(r);
  }
  for (const size_t r : channel_.wait(ranks, patience)) {
    std::vector<BeatMessage> messages;
    const bool there = channel_.receive(r, &messages);
    for (const BeatMessage& message : messages) take(r, message);
    if (!there) gone(r);
  }
}

void Heartbeat::take(size_t rank, const BeatMessage& message) {
  if (message.kind == Beat::kEnd) return end({});
  if (message.kind == Beat::kFailed && c_.rank == 0) return end(message.text);
  if (message.kind == Beat::kHangs && c_.rank == 0) {
    const std::string others = describe_others();
    return end(others.empty() ? message.text : message.text + "; " + others);
  }
  const std::lock_guard lock(mutex_);
  others_.heard_from(rank);
  if (message.kind == Beat::kAlive) others_.set_place(rank, message.text);
  if (message.kind == Beat::kLeaving) others_.left(rank);
}

void Heartbeat::gone(size_t rank) {
  std::string place;
  {
    const std::lock_guard lock(mutex_);
    if (others_.has_left(rank) || leaving_) return others_.left(rank);
    place = others_.place(rank);
  }
  const std::string text = concat(c_.name_of(rank), " exited unexpectedly (killed?), last seen in ", place,
                                  "; all ranks end, the last checkpoint is ", last_checkpoint());
  if (c_.rank > 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  end(c_.rank > 1 ? "" : text);
}

// ---- the end --------------------------------------------------------------------------------------------------------

void Heartbeat::end(const std::string& text, int code) {
  if (!forced_end_.claim()) return;
  if (!text.empty()) say_at_the_end(text);
  if (c_.rank == 0)
    for (size_t r = 1; r < c_.heartbeats.size(); ++r) channel_.send(r, Beat::kEnd, "");
  forced_end_.end(code);
}

void Heartbeat::fail(const std::string& text, bool hangs) {
  const std::string others = hangs ? describe_others() : "";
  const std::string line = others.empty() ? text : text + "; " + others;
  if (c_.rank == 0) return end(line);
  double silent = 0;
  {
    const std::lock_guard lock(mutex_);
    silent = others_.silent(0);
  }
  channel_.send(0, hangs ? Beat::kHangs : Beat::kFailed, text);
  if (silent < kSilentSeconds) std::this_thread::sleep_for(kAnswer);
  end(c_.rank == 1 || !hangs ? line : "");
}

std::string Heartbeat::describe_others() {
  const std::lock_guard lock(mutex_);
  return others_.describe_odd();
}

}  // namespace scfa

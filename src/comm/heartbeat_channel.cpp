#include "comm/heartbeat_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

constexpr size_t kLongestText = 1 << 16;
constexpr size_t kHead = 1 + sizeof(uint32_t);

}  // namespace

HeartbeatChannel::HeartbeatChannel(Connections* connections) : c_(*connections), received_(c_.heartbeats.size()) {
  for (const Socket& socket : c_.heartbeats) {
    if (socket.fd() < 0) continue;
    ::fcntl(socket.fd(), F_SETFL, ::fcntl(socket.fd(), F_GETFL) | O_NONBLOCK);
  }
  const bool made = ::pipe2(wake_, O_CLOEXEC) == 0;
  require(made, "heartbeats: cannot create a pipe: too many open files");
}

HeartbeatChannel::~HeartbeatChannel() {
  for (const int fd : wake_) ::close(fd);
}

void HeartbeatChannel::send(size_t rank, Beat kind, const std::string& text) {
  const auto size = static_cast<uint32_t>(std::min(text.size(), kLongestText));
  std::string message(1, static_cast<char>(kind));
  message.append(reinterpret_cast<const char*>(&size), sizeof size).append(text, 0, size);
  const std::lock_guard lock(sending_);
  const int fd = c_.heartbeats[rank].fd();
  // A rank that is stopped reads nothing: where its buffer is full there is nobody to tell. Half a message would make
  // the next one unreadable.
  const ssize_t sent = ::send(fd, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent > 0 && sent < static_cast<ssize_t>(message.size())) ::shutdown(fd, SHUT_WR);
}

void HeartbeatChannel::send_to_all(Beat kind, const std::string& text) {
  for (size_t r = 0; r < c_.heartbeats.size(); ++r)
    if (connected(r)) send(r, kind, text);
}

void HeartbeatChannel::wake() {
  [[maybe_unused]] const ssize_t written = ::write(wake_[1], "", 1);
}

std::vector<size_t> HeartbeatChannel::wait(const std::vector<size_t>& ranks, std::chrono::milliseconds patience) const {
  std::vector<pollfd> polled{{wake_[0], POLLIN, 0}};
  for (const size_t r : ranks) polled.push_back({c_.heartbeats[r].fd(), POLLIN, 0});
  const int timeout = static_cast<int>(std::max<int64_t>(patience.count(), 0));
  if (::poll(polled.data(), polled.size(), timeout) <= 0) return {};
  std::vector<size_t> ready;
  for (size_t i = 0; i < ranks.size(); ++i)
    if (polled[i + 1].revents != 0) ready.push_back(ranks[i]);
  return ready;
}

bool HeartbeatChannel::receive(size_t rank, std::vector<BeatMessage>* messages) {
  char bytes[4096];
  const ssize_t count = ::recv(c_.heartbeats[rank].fd(), bytes, sizeof bytes, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (count <= 0) return false;
  std::string& received = received_[rank];
  received.append(bytes, static_cast<size_t>(count));
  while (received.size() >= kHead) {
    uint32_t size = 0;
    std::memcpy(&size, received.data() + 1, sizeof size);
    if (size > kLongestText) return false;
    if (received.size() < kHead + size) break;
    messages->push_back({static_cast<Beat>(received[0]), received.substr(kHead, size)});
    received.erase(0, kHead + size);
  }
  return true;
}

}  // namespace scfa

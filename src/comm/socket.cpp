#include "comm/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>

#include "core/error.h"

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

void set_options(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);  // a host that lost its power sends no end
}

// One attempt of at most a second.
Socket try_connect(const sockaddr* address, socklen_t size, std::string* error) {
  Socket socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int status = ::connect(socket.fd(), address, size) == 0 ? 0 : errno;
  if (status == EINPROGRESS) {
    pollfd ready{socket.fd(), POLLOUT, 0};
    socklen_t length = sizeof status;
    if (::poll(&ready, 1, 1000) <= 0)
      status = ETIMEDOUT;
    else
      ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &status, &length);
  }
  if (status != 0) {
    *error = std::strerror(status);
    return {};
  }
  ::fcntl(socket.fd(), F_SETFL, ::fcntl(socket.fd(), F_GETFL) & ~O_NONBLOCK);
  set_options(socket.fd());
  return socket;
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

bool Socket::write_all(const void* data, size_t bytes) const {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::send(fd_, from, bytes, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    from += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

bool Socket::read_all(void* data, size_t bytes) const {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::recv(fd_, to, bytes, 0);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    to += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

bool Socket::write_message(const std::string& text) const {
  const uint64_t size = text.size();
  return write_all(&size, sizeof size) && write_all(text.data(), text.size());
}

bool Socket::read_message(std::string* text, size_t most) const {
  uint64_t size = 0;
  if (!read_all(&size, sizeof size) || size > most) return false;
  text->resize(size);
  return read_all(text->data(), size);
}

void Socket::limit_reading(double seconds) const {
  timeval limit{};
  limit.tv_sec = static_cast<time_t>(seconds);
  limit.tv_usec = static_cast<suseconds_t>((seconds - std::floor(seconds)) * 1e6);
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

Listener::Listener(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const int on = 1;
  ::setsockopt(socket_.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(port));
  socklen_t size = sizeof address;
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  const bool listening = ::bind(socket_.fd(), plain, size) == 0 && ::listen(socket_.fd(), 1024) == 0 &&
                         ::getsockname(socket_.fd(), plain, &size) == 0;
  const int error = errno;  // arguments of require are evaluated in any order
  require(listening, "rank 0 cannot listen on port ", port, ": ", std::strerror(error),
          error == EADDRINUSE ? "; another process uses it: set MASTER_PORT to a free port" : "");
  port_ = ntohs(address.sin_port);
}

std::optional<Socket> Listener::accept(double seconds) const {
  pollfd ready{socket_.fd(), POLLIN, 0};
  if (::poll(&ready, 1, static_cast<int>(std::max(seconds, 0.0) * 1e3)) <= 0) return {};
  Socket accepted(::accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  if (accepted.fd() < 0) return {};
  set_options(accepted.fd());
  return accepted;
}

std::optional<Socket> connect_to(const std::string& address, int port, double seconds, std::string* error) {
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  while (true) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    const int status = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
    if (status != 0) *error = ::gai_strerror(status);
    for (const addrinfo* each = found; each != nullptr; each = each->ai_next)
      if (Socket socket = try_connect(each->ai_addr, each->ai_addrlen, error); socket.fd() >= 0) {
        ::freeaddrinfo(found);
        return socket;
      }
    if (found != nullptr) ::freeaddrinfo(found);
    if (Clock::now() >= end) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

std::vector<std::string> own_addresses() {
  std::vector<std::string> addresses, loopback;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {"127.0.0.1"};
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET || (each->ifa_flags & IFF_UP) == 0) continue;
    char text[INET_ADDRSTRLEN] = {};
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, text, sizeof text);
    ((each->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : addresses).emplace_back(text);
  }
  ::freeifaddrs(all);
  addresses.insert(addresses.end(), loopback.begin(), loopback.end());
  return addresses;
}

}  // namespace scfa

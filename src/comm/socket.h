// TCP between the processes of a run: what start-up, small messages and heartbeats need, no more.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace scfa {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket();
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }

  // Block until all is done; false if the other side is gone.
  bool write_all(const void* data, size_t bytes) const;
  bool read_all(void* data, size_t bytes) const;

  // A length and that many bytes. Reading fails too if the length is above `most`.
  bool write_message(const std::string& text) const;
  bool read_message(std::string* text, size_t most = size_t{1} << 30) const;

  void limit_reading(double seconds) const;  // read_all fails when nothing comes for so long; 0: waits for ever

 private:
  int fd_ = -1;
};

class Listener {
 public:
  explicit Listener(int port);  // 0: any that is free. Throws Error naming the port if it is taken.
  int port() const { return port_; }
  std::optional<Socket> accept(double seconds) const;

 private:
  Socket socket_;
  int port_ = 0;
};

// Tries for so long; else says in *error why not.
std::optional<Socket> connect_to(const std::string& address, int port, double seconds, std::string* error);

// IPv4 addresses of this host's interfaces that are up, loopback last.
std::vector<std::string> own_addresses();

}  // namespace scfa

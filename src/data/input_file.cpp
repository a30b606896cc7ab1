#include "data/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/signals.h"
#include "data/checksum.h"

namespace scfa {

namespace {
constexpr int64_t kBlock = 1 << 20;

// A set may have more shards than a process may have open by default.
bool raise_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

[[noreturn]] void fail_too_long(const std::string& name, int64_t limit) {
  fail(name, ": has more than the ", limit, " bytes that such a file can have");
}

std::string read_all(int fd, const std::string& name, int64_t limit) {
  std::string text;
  std::vector<char> block(1 << 16);
  while (true) {
    check_stop(name, ": reading was interrupted");
    if (!wait_readable(fd)) continue;
    const ssize_t got = ::read(fd, block.data(), block.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    require(got >= 0, name, ": cannot be read: ", std::strerror(errno));
    if (got == 0) return text;
    text.append(block.data(), static_cast<size_t>(got));
    if (static_cast<int64_t>(text.size()) > limit) fail_too_long(name, limit);
  }
}

}  // namespace

int open_for_reading(const std::string& path) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  int fd = ::open(path.c_str(), kFlags);
  if (fd < 0 && errno == EMFILE) {
    const bool raised = raise_open_files();
    errno = EMFILE;
    if (raised) fd = ::open(path.c_str(), kFlags);
  }
  require(fd >= 0, path, ": cannot be opened: ", std::strerror(errno));
  struct stat status {};
  if (::fstat(fd, &status) != 0 || S_ISDIR(status.st_mode)) {
    ::close(fd);
    fail(path, ": is a folder, not a file");
  }
  return fd;
}

bool wait_readable(int fd) {
  pollfd ready{fd, POLLIN, 0};
  return ::poll(&ready, 1, 100) > 0;
}

InputFile::InputFile(const std::string& path) : path_(path), fd_(open_for_reading(path)) {
  struct stat status {};
  if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd_);
    fail(path, ": is not a regular file");
  }
  size_ = status.st_size;
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

void InputFile::read(int64_t offset, void* to, int64_t bytes) const {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_, at, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    require(got >= 0, path_, ": cannot be read: ", std::strerror(errno));
    require(got > 0, path_, ": ends at byte ", offset, "; it had ", size_, " bytes when it was opened");
    at += got;
    offset += got;
    bytes -= got;
  }
}

uint64_t checksum_of_file(const InputFile& file, int64_t begin, int64_t end,
                          const std::function<void(int64_t)>& progress) {
  const int64_t start = begin;
  std::vector<char> block(static_cast<size_t>(std::clamp<int64_t>(end - begin, 0, kBlock)));
  Checksum checksum;
  while (begin < end) {
    check_stop(file.path(), ": checking was interrupted");
    const int64_t part = std::min(kBlock, end - begin);
    file.read(begin, block.data(), part);
    checksum.update(block.data(), static_cast<size_t>(part));
    begin += part;
    if (progress) progress(begin - start);
  }
  return checksum.value();
}

std::string read_text_file(const std::string& path, int64_t limit) {
  const int fd = open_for_reading(path);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  return read_all(fd, path, limit);
}

std::string read_regular_file(const std::string& path, int64_t limit) {
  const InputFile file(path);
  if (file.size() > limit) fail_too_long(path, limit);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  return text;
}

std::string read_standard_input(int64_t limit) {
  return read_all(STDIN_FILENO, "standard input", limit);
}

}  // namespace scfa

#include "data/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

fs::path lock_of(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(folder, error);  // one lock, also for who comes by a link
  if (error) path = fs::path(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "data/mine/"
  return path.parent_path() / ("." + path.filename().string() + ".lock");
}

// What the lock says of who holds it; empty if it says nothing.
std::string read_holder(int fd) {
  char text[256] = {};
  const ssize_t size = ::pread(fd, text, sizeof text - 1, 0);
  const std::string holder(text, static_cast<size_t>(size > 0 ? size : 0));
  return holder.substr(0, holder.find('\n'));
}

[[noreturn]] void fail_held(const std::string& folder, const std::string& holder) {
  fail(folder, ": is being written by another process", holder.empty() ? "" : " (", holder, holder.empty() ? "" : ")",
       "; wait until it has ended, or choose another name");
}

bool try_lock(int fd, const fs::path& path) {
  for (int tries = 0; ::flock(fd, LOCK_EX | LOCK_NB) != 0; ++tries) {
    require(errno == EINTR || errno == EWOULDBLOCK, path.string(), ": cannot be locked: ", std::strerror(errno));
    if (tries == 20) return false;
    ::usleep(5000);  // whoever looks whether it is free holds it for a moment
  }
  return true;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder) {
  const fs::path path = lock_of(folder);
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  require(!error, path.parent_path().string(), ": cannot be created: ", error.message());
  path_ = path.string();
  while (true) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd_ < 0) {
      const int reason = errno;
      const std::string parent = path.has_parent_path() ? path.parent_path().string() : ".";
      fail(::access(parent.c_str(), W_OK) == 0 ? path_ : parent, ": cannot be written: ", std::strerror(reason));
    }
    if (!try_lock(fd_, path)) {
      const int fd = fd_;
      fd_ = -1;
      struct Closer {
        int fd;
        ~Closer() { ::close(fd); }
      } const closer{fd};
      fail_held(folder, read_holder(fd));
    }
    // Who held it may have removed the file between our opening and locking it.
    struct stat ours {
    }, there{};
    if (::fstat(fd_, &ours) == 0 && ::stat(path_.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev)
      break;
    ::close(fd_);
  }
  char host[256] = "unknown host";
  ::gethostname(host, sizeof host - 1);
  const std::string holder = concat("process ", ::getpid(), " on ", host, "\n");
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, holder.data(), holder.size(), 0) < 0) {
    // The lock holds all the same; only the message of who is refused says less.
  }
}

FolderLock::~FolderLock() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());
  ::close(fd_);
}

std::optional<std::string> FolderLock::holder(const std::string& folder) {
  const int fd = ::open(lock_of(folder).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return {};
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  if (::flock(fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) return {};
  return read_holder(fd);
}

void FolderLock::check_free(const std::string& folder) {
  if (const std::optional<std::string> who = holder(folder)) fail_held(folder, *who);
}

}  // namespace scfa

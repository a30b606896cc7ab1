#include "train/durable_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "core/error.h"

namespace scfa {

DurableFile::DurableFile(const std::string& path)
    : path_(path),
      fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)),
      hash_(XXH3_createState()) {
  if (fd_ < 0) {
    const int error = errno;
    XXH3_freeState(hash_);
    fail(path, ": cannot be written: ", std::strerror(error));
  }
  XXH3_64bits_reset(hash_);
}

DurableFile::~DurableFile() {
  if (fd_ >= 0) ::close(fd_);
  XXH3_freeState(hash_);
}

void DurableFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  XXH3_64bits_update(hash_, data, bytes);
  bytes_ += static_cast<int64_t>(bytes);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    require(written >= 0, path_, ": cannot be written: ", std::strerror(errno));
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void DurableFile::close() {
  const bool synced = ::fsync(fd_) == 0 || errno == EINVAL;  // EINVAL: a special file that cannot be synced
  const int error = errno;
  const bool closed = ::close(fd_) == 0;
  fd_ = -1;
  require(synced && closed, path_, ": cannot be written: ", std::strerror(synced ? errno : error));
}

uint64_t DurableFile::checksum() const {
  return XXH3_64bits_digest(hash_);
}

void sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  require(fd >= 0, path, ": cannot be opened: ", std::strerror(errno));
  const bool ok = ::fsync(fd) == 0 || errno == EINVAL;
  const int error = errno;
  ::close(fd);
  require(ok, path, ": cannot be synced: ", std::strerror(error));
}

uint64_t file_checksum(const std::string& path, int64_t* bytes) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path, ": cannot be read");
  XXH3_state_t* hash = XXH3_createState();
  XXH3_64bits_reset(hash);
  std::vector<char> block(size_t{4} << 20);
  *bytes = 0;
  while (file) {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    XXH3_64bits_update(hash, block.data(), static_cast<size_t>(file.gcount()));
    *bytes += file.gcount();
  }
  const uint64_t value = XXH3_64bits_digest(hash);
  XXH3_freeState(hash);
  require(file.eof(), path, ": cannot be read to its end");
  return value;
}

std::string hex(uint64_t value) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) text[static_cast<size_t>(i)] = kDigits[value & 15];
  return text;
}

}  // namespace scfa

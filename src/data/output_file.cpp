#include "data/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace scfa {

OutputFile::OutputFile(const std::string& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) failed(errno);
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::failed(int error) const {
  fail(path_, ": cannot be written: ", std::strerror(error));
}

// A full disk may take a part first; the next call then says why it takes no more.
void OutputFile::write(const void* data, size_t size, long* offset) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t done = offset == nullptr ? ::write(fd_, from, size) : ::pwrite(fd_, from, size, *offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) failed(done < 0 ? errno : ENOSPC);
    from += done;
    size -= static_cast<size_t>(done);
    if (offset != nullptr) *offset += done;
  }
}

void OutputFile::write_at_start(const void* data, size_t size) {
  long offset = 0;
  write(data, size, &offset);
}

void OutputFile::close() {
  if (::fsync(fd_) != 0 && errno != EINVAL) failed(errno);  // EINVAL: nothing to sync
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) failed(errno);
}

void write_file(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.append(text.data(), text.size());
  file.close();
}

}  // namespace scfa

#include "data/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

void sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  require(synced || error == EINVAL, path, ": cannot be synced: ", std::strerror(error));  // EINVAL: nothing to sync
}

std::string parent_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

OutputFile::OutputFile(const std::string& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) failed();
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::failed() const {
  fail(path_, ": cannot be written: ", std::strerror(errno));
}

void OutputFile::append(const void* data, size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t done = ::write(fd_, from, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) failed();
    from += done;
    size -= static_cast<size_t>(done);
  }
}

void OutputFile::write_at_start(const void* data, size_t size) {
  if (::pwrite(fd_, data, size, 0) != static_cast<ssize_t>(size)) failed();
}

void OutputFile::close() {
  if (::fsync(fd_) != 0 && errno != EINVAL) failed();
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) failed();
}

void write_file(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.append(text.data(), text.size());
  file.close();
}

StagedFolder::StagedFolder(const std::string& target) : target_(target) {
  while (target_.size() > 1 && target_.ends_with('/')) target_.pop_back();
  std::error_code error;
  fs::create_directories(parent_of(target_), error);
  require(!error, parent_of(target_), ": cannot be created: ", error.message());
  path_ = target_ + ".partial-XXXXXX";
  require(::mkdtemp(path_.data()) != nullptr, path_, ": cannot be created: ", std::strerror(errno));
  ::chmod(path_.c_str(), 0755);
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void StagedFolder::commit() {
  sync_folder(path_);
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    sync_folder(parent_of(target_));
    return;  // the destructor removes what was there before
  }
  std::error_code error;
  if (errno != ENOENT) fs::remove_all(target_, error);  // a file system that cannot exchange
  if (!error) fs::rename(path_, target_, error);
  require(!error, target_, ": cannot be put in place: ", error.message());
  path_.clear();
  sync_folder(parent_of(target_));
}

}  // namespace scfa

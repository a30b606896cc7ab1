// One writer at a time for a folder, a run's or a prepared set's. The lock is a file beside the folder, .NAME.lock,
// locked by flock: the kernel gives it up when the process ends, however it ends.
#pragma once
#include <optional>
#include <string>

namespace scfa {

class FolderLock {
 public:
  // Throws Error naming the folder and the process that holds it. Makes the folder's parent if it is not there.
  explicit FolderLock(const std::string& folder);
  ~FolderLock();  // removes the file
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // Throws Error as the constructor does if another process holds the folder, and changes nothing.
  static void check_free(const std::string& folder);
  // Who holds it, "process 7 on host" (empty if the lock does not say), or nothing if nobody does.
  static std::optional<std::string> holder(const std::string& folder);

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace scfa

// Writing files so that a failure shows at once and what is complete stays complete.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace scfa {

// A file that did not exist before. Every failure, a full disk for one, throws Error naming the file.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, size_t size) { write(data, size, nullptr); }
  void write_at_start(const void* data, size_t size);  // over what is there
  void close();                                        // waits until the bytes are on disk

 private:
  void write(const void* data, size_t size, long* offset);  // null: at the end
  [[noreturn]] void failed(int error) const;

  std::string path_;
  int fd_ = -1;
};

// Writes a whole small file.
void write_file(const std::string& path, const std::string& text);

// Whether an entry of a folder is one that this program writes there. Entries are paths within the folder:
// "manifest.json", "nanogpt" (a folder), "nanogpt/train.bin".
using IsOurs = std::function<bool(const std::string& entry)>;
IsOurs is_one_of(std::vector<std::string> entries);

// The entries of a folder, at any depth, that are not ours: other names, and links, devices and pipes of any name. A
// folder that is not ours counts as one entry. Throws Error if listing fails.
std::vector<std::string> foreign_entries(const std::string& folder, const IsOurs& is_ours);

// Removes the files of a folder that are ours, then the folders that are empty and ours, and the folder itself if
// nothing is left in it. Follows no links. Returns the paths of what stays; throws nothing.
std::vector<std::string> remove_our_files(const std::string& folder, const IsOurs& is_ours);

// The target of a path with its links followed, dangling ones too; without slashes at the end.
std::string follow_links(const std::string& path);

// A new folder NAME.partial-XXXXXX beside the target NAME, which collects its new contents. Unless it was put in place,
// the destructor removes those of its files that are ours. A link at the target stays; what it points to is the target.
class StagedFolder {
 public:
  // is_ours: what may come into the folder.
  StagedFolder(const std::string& target, IsOurs is_ours);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  // Both sync the folder and rename it to the target. If that fails, they throw Error and keep the complete contents
  // under another name, which the error gives.
  void commit();  // nothing, or an empty folder, may be at the target
  // A folder at the target is exchanged for the new one if it holds only what is ours, and its files then removed.
  // Returns the paths of what was added to it in the last moment, which stays.
  std::vector<std::string> replace(const IsOurs& replaceable);

  // Removes what processes that were killed left beside the target, folders NAME.partial-XXXXXX that hold only what is
  // ours. The caller must be the only writer of the target (data/folder_lock.h).
  static void remove_stale(const std::string& target, const IsOurs& is_ours);

 private:
  [[noreturn]] void keep(const std::string& why);
  void exchange();

  std::string target_, path_;
  IsOurs is_ours_;
};

}  // namespace scfa

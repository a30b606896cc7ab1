// Writing files so that a failure shows at once and what is complete stays complete.
#pragma once
#include <cstddef>
#include <string>

namespace scfa {

// A file that did not exist before. Every failure, a full disk for one, throws Error naming the file.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, size_t size);
  void write_at_start(const void* data, size_t size);  // over what is there
  void close();                                        // waits until the bytes are on disk

 private:
  [[noreturn]] void failed() const;

  std::string path_;
  int fd_ = -1;
};

// Writes a whole small file.
void write_file(const std::string& path, const std::string& text);

// A new folder beside `target`, in which its new contents are collected. Unless commit() moves it there, all of it goes
// when the object does.
class StagedFolder {
 public:
  explicit StagedFolder(const std::string& target);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  // Syncs the folder and renames it to the target; a folder that is there is exchanged for it and then removed.
  void commit();

 private:
  std::string target_, path_;
};

}  // namespace scfa

// A table in a file, there whole or not at all.
#pragma once
#include <memory>
#include <string>

#include "data/output_file.h"

namespace scfa {

// Collects what is appended in a file beside its place, which commit() moves there, over one of that name. Without
// commit() nothing is left. Every failure throws Error naming the file.
class TableFile {
 public:
  explicit TableFile(const std::string& path);
  ~TableFile();
  TableFile(const TableFile&) = delete;
  TableFile& operator=(const TableFile&) = delete;

  void append(const std::string& text);
  void commit();

 private:
  std::string path_, partial_;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace scfa

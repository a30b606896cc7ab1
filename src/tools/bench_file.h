// A table in a file, there whole or not at all.
#pragma once
#include <memory>
#include <string>

#include "data/output_file.h"

namespace scfa {

// Collects what is appended in a file beside its place, which commit() moves there, over one of that name. Without
// commit() nothing is left. Every failure throws Error naming the file.
class BenchFile {
 public:
  explicit BenchFile(const std::string& path);
  ~BenchFile();
  BenchFile(const BenchFile&) = delete;
  BenchFile& operator=(const BenchFile&) = delete;

  void append(const std::string& text);
  void commit();

 private:
  std::string path_, partial_;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace scfa

#include "data/table_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace scfa {

namespace fs = std::filesystem;

TableFile::TableFile(const std::string& path) {
  std::error_code none;
  const fs::path target = fs::weakly_canonical(path, none);  // a link stays one
  path_ = target.empty() ? path : target.string();
  require(!fs::exists(path_, none) || fs::is_regular_file(path_, none), path, ": is there and is not a regular file");
  partial_ = concat(path_, ".partial-", ::getpid());
  file_ = std::make_unique<OutputFile>(partial_);
}

TableFile::~TableFile() {
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

void TableFile::append(const std::string& text) {
  file_->append(text.data(), text.size());
}

void TableFile::commit() {
  file_->close();
  const bool renamed = std::rename(partial_.c_str(), path_.c_str()) == 0;
  require(renamed, path_, ": cannot be written: ", std::strerror(errno));
  partial_.clear();
}

}  // namespace scfa

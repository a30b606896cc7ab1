// A folder for the length of a test.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "core/error.h"

namespace scfa::test {

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Flips the lowest bit of the byte at that place.
inline void flip_bit(const std::string& path, size_t at) {
  std::string bytes = read_text(path);
  bytes.at(at) = static_cast<char>(bytes.at(at) ^ 1);
  write_text(path, bytes);
}

class TempDir {
 public:
  TempDir() {
    path_ = (std::filesystem::temp_directory_path() / "scfa-test-XXXXXX").string();
    require(mkdtemp(path_.data()) != nullptr, "no temporary folder");
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string file(const std::string& name) const { return *this / name; }
  // Writes a file, and the folders on the way to it, and returns its path.
  std::string put(const std::string& name, const std::string& bytes) const {
    const std::string path = file(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    write_text(path, bytes);
    return path;
  }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

}  // namespace scfa::test

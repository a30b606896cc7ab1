// The lines of a run's metrics.jsonl. The last key of each is "xxh3", the XXH3-64 of all bytes of the line before it.
// Lines that earlier versions wrote have none; what has a "format" is not one of them.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/input_file.h"

namespace scfa {

inline constexpr int kMetricsFormat = 2;  // of headers and "resume" records; 1 had neither key

// The line of a JSON object: {"a":1} becomes {"a":1,"xxh3":"0123456789abcdef"}.
std::string with_checksum(const std::string& object);

enum class LineChecksum { kRight, kWrong, kNone };
LineChecksum check_line(std::string_view line);

// Goes through a file from its first line on.
class MetricsLines {
 public:
  // The file must outlive this.
  explicit MetricsLines(const InputFile& file) : file_(file) {}

  // False behind the last line; empty ones are passed over. Throws Interrupted once a signal asked to stop.
  bool next();

  const std::string& text() const { return line_; }
  int64_t number() const { return number_; }  // from 1
  int64_t end() const { return end_; }        // the place behind it, its end of line included
  bool ended() const { return ended_; }       // false: the last one, cut short
  // Whether it is as it was written: its checksum is right, or it has none, is JSON, and no line before it has one.
  bool holds() const { return holds_; }
  bool checksummed() const { return checksummed_; }  // whether lines from here on have checksums

 private:
  bool read_line();
  bool check();

  const InputFile& file_;
  std::string block_, line_;
  size_t at_ = 0;  // in block_
  int64_t read_ = 0, end_ = 0, number_ = 0;
  bool ended_ = false, holds_ = false, checksummed_ = false;
};

// "PATH: lines 3 and 17 are not as they were written".
std::string describe_broken_lines(const std::string& path, const std::vector<int64_t>& numbers);

}  // namespace scfa

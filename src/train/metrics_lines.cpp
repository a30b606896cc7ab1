#include "train/metrics_lines.h"

#include <algorithm>

#include "core/signals.h"
#include "data/checksum.h"
#include "data/json_file.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 1 << 18;
constexpr size_t kLongestLine = 1 << 22, kDigits = 16;
constexpr std::string_view kKey = ",\"xxh3\":\"", kEnd = "\"}";
constexpr size_t kTail = kKey.size() + kDigits + kEnd.size();

std::string tail_of(std::string_view before) {
  return concat(kKey, to_hex(checksum_of(before.data(), before.size())), kEnd);
}

// A line that has lost the key of its checksum is none of an earlier version.
bool has_format(const std::string& line) {
  if (line.find("\"format\"") == std::string::npos) return false;
  const Json record = Json::parse(line, nullptr, false);
  return record.is_object() && record.contains("format");
}

}  // namespace

std::string with_checksum(const std::string& object) {
  require(object.size() > 2 && object.ends_with('}'), "metrics: \"", abbreviate(object), "\" is no object with keys");
  const std::string before = object.substr(0, object.size() - 1);
  return before + tail_of(before);
}

LineChecksum check_line(std::string_view line) {
  if (line.size() < kTail) return LineChecksum::kNone;
  const std::string_view tail = line.substr(line.size() - kTail);
  if (!tail.starts_with(kKey) || !tail.ends_with(kEnd)) return LineChecksum::kNone;
  return tail == tail_of(line.substr(0, line.size() - kTail)) ? LineChecksum::kRight : LineChecksum::kWrong;
}

bool MetricsLines::next() {
  do {
    if (!read_line()) return false;
  } while (line_.empty());
  holds_ = check();
  return true;
}

bool MetricsLines::read_line() {
  line_.clear();
  for (ended_ = false; !ended_;) {
    if (at_ == block_.size()) {
      check_stop(file_.path(), ": reading was interrupted");
      at_ = 0;
      block_.resize(static_cast<size_t>(std::min(kBlock, file_.size() - read_)));
      if (block_.empty()) break;
      file_.read(read_, block_.data(), static_cast<int64_t>(block_.size()));
      read_ += static_cast<int64_t>(block_.size());
    }
    const size_t newline = block_.find('\n', at_);
    ended_ = newline != std::string::npos;
    const size_t end = ended_ ? newline : block_.size();
    if (line_.size() < kLongestLine) line_.append(block_, at_, end - at_);  // of longer ones the start is enough
    at_ = ended_ ? newline + 1 : end;
  }
  if (!ended_ && line_.empty()) return false;
  ++number_;
  end_ = read_ - static_cast<int64_t>(block_.size() - at_);
  return true;
}

bool MetricsLines::check() {
  if (line_.size() >= kLongestLine) return false;
  const LineChecksum checksum = check_line(line_);
  const bool earlier = checksum == LineChecksum::kNone && !checksummed_ && !has_format(line_);
  if (earlier) return line_.starts_with('{') && Json::accept(line_);
  checksummed_ = true;
  return checksum == LineChecksum::kRight;
}

std::string describe_broken_lines(const std::string& path, const std::vector<int64_t>& numbers) {
  constexpr size_t kNamed = 10;
  const size_t named = std::min(numbers.size(), kNamed), more = numbers.size() - named;
  std::string list;
  for (size_t i = 0; i < named; ++i)
    list += concat(i == 0 ? "" : i + 1 < named || more > 0 ? ", " : " and ", numbers[i]);
  if (more > 0) list += concat(" and ", more, " more");
  return concat(path, numbers.size() == 1 ? ": line " : ": lines ", list,
                numbers.size() == 1 ? " is not as it was written" : " are not as they were written");
}

}  // namespace scfa
